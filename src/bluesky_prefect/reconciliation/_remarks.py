"""Remarks of reconciliation beside its findings, made before it starts anything."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from bluesky_prefect.core import Workflow, counted
from bluesky_prefect.reconciliation._diagnosis import Diagnosis, RunState
from bluesky_prefect.reconciliation._time_window import moment
from bluesky_prefect.tiled_api import Catalog, spec_problem

# A workflow of which nothing else is known is new, or has a new name.
_NOT_THERE = {
    RunState.MISSING,
    RunState.BEFORE_LISTED,
    RunState.FORGOTTEN,
    RunState.OTHER_NAME,
    RunState.SETTLING,
}

# Longer than any answer takes, and shorter than what counts as too long.
_CLOCKS_APART_S = 300.0


class Remarks:
    """Remarks of reconciliation beside its findings.

    `told` holds those made so far; `warn` is told each when it is made. `submit` says whether anything is going to be
    started.
    """

    def __init__(self, warn: Callable[[str], None], *, submit: bool) -> None:
        self._warn = warn
        self._submit = submit
        self._known: set[str] = set()
        self._queued: Counter[str] = Counter()
        self.told: list[str] = []

    def on_catalog(self, catalog: Catalog) -> None:
        """Tell whether the catalog of runs lacks something; raises the errors of `Catalog.raw`."""
        if problem := spec_problem(catalog.raw, catalog.name):
            self._tell(problem)

    def on_unknown_memory(self, problem: str) -> None:
        """Tell that nobody knows how far back Prefect remembers."""
        self._tell(problem)

    def on_clocks(self, server_s: float, ours_s: float, address: str | None) -> None:
        """Tell whether the clocks of Prefect at an address and of this machine are apart (seconds since the epoch)."""
        apart_s = abs(server_s - ours_s)
        if apart_s > _CLOCKS_APART_S:
            self._tell(
                f"The clocks of Prefect at {address} ({moment(server_s)}) and of this machine ({moment(ours_s)}) are "
                f"{apart_s / 60:.0f} min apart. Set the wrong one, by NTP for example: until then runs and flow "
                "runs seem older or newer than they are."
            )

    def on_memory(self, since_s: float, address: str | None) -> None:
        """Tell that Prefect at an address may not know all flow runs of older runs (seconds since the epoch)."""
        self._tell(
            f"Flow runs of runs that stopped before {moment(since_s)} are deleted in Prefect at {address}, or will be "
            "soon: what became of these runs it may not know, and nothing is started on them. To process one all the "
            "same: bluesky-prefect submit UID --again."
        )

    def on_new_names(self, diagnosed: Iterable[tuple[Workflow, Diagnosis]]) -> None:
        """Tell which workflows have no history, so that somebody sees what their first runs are going to be."""
        by_name = defaultdict[str, Counter[RunState]](Counter)
        for workflow, diagnosis in diagnosed:
            by_name[workflow.name][diagnosis.state] += 1
        for name, states in by_name.items():
            missing = states[RunState.MISSING]
            if name not in self._known and missing and states.keys() <= _NOT_THERE:
                self._tell(
                    f"Workflow {name!r} has no flow run in Prefect on any of {counted(states.total(), 'run')}: "
                    f"{missing} {'will' if self._submit else 'would'} be started. If it was renamed, say so in "
                    "the list of workflows: was='...'."
                )
        self._known |= by_name.keys()

    def on_queues(self, diagnoses: Iterable[Diagnosis]) -> None:
        """Take note of flow runs that wait in their queues."""
        self._queued.update(one.reason for one in diagnoses if one.state is RunState.QUEUED)

    def tell_of_queues(self) -> None:
        """Tell how many flow runs wait in which queue: somebody may have paused it and forgotten that."""
        for reason, many in self._queued.items():
            self._tell(f"{counted(many, 'flow run')} {reason if many == 1 else reason.replace('waits', 'wait', 1)}.")

    def _tell(self, remark: str) -> None:
        self.told.append(remark)
        self._warn(remark)
