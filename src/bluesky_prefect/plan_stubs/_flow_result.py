"""The result of a run's workflow, as a plan gets it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bluesky_prefect.core import ConfigurationError, Settings, TiledUnavailable
from bluesky_prefect.prefect_api import PrefectApi, exported_files
from bluesky_prefect.watch import DECLINED, WorkflowStatus

NOT_STARTED = "Not started"


@dataclass(frozen=True)
class FlowResult(WorkflowStatus):
    """The result of a run's workflow: its status at the end, and what it has left.

    Where none was started, ``state`` is ``Not started``, and ``workflow`` is the one that was waited for, if it has a
    name.

    Attributes
    ----------
    files : tuple of str
        Paths of the files that were exported, as the worker sees them.
    processed : Mapping
        What was written to Tiled about this run, by whichever flow: paths there, and the metadata of each.
    problems : tuple of str
        Why files or entries are not known; empty if they are.
    """

    files: tuple[str, ...] = ()
    processed: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()

    @property
    def started(self) -> bool:
        """True if there was a flow run at all; if so, it has completed."""
        return self.flow_run_id is not None

    def found(self, quantity: str) -> Mapping[str, Any] | None:
        """Return the metadata of the entry in Tiled whose ``quantity`` is this one; None if there is none."""
        return next((one for one in self.processed.values() if one.get("quantity") == quantity), None)


def not_started(run_uid: str, why: str, workflow: str | None = None) -> FlowResult:
    """Return the result of a workflow that was never wanted."""
    return FlowResult(run_uid, workflow or "", None, None, DECLINED, NOT_STARTED, why, created=0.0)


def collect(status: WorkflowStatus, api: PrefectApi, settings: Settings, *, patient: bool) -> FlowResult:
    """Return what a completed flow run has left.

    Parameters
    ----------
    status : WorkflowStatus
        The flow run.
    api : PrefectApi
        Open.
    settings : Settings
        Where Tiled is.
    patient : bool
        Whether there is time to ask Tiled again later.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    TiledUnavailable
        If Tiled cannot be asked now, and there is time.
    """
    processed: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    try:
        processed = _processed(status.run_uid, settings)
    except TiledUnavailable as error:
        if patient:
            raise
        problems.append(str(error))
    except ConfigurationError as error:
        problems.append(str(error))
    return FlowResult(
        **vars(status),
        files=exported_files(api, str(status.flow_run_id)),
        processed=MappingProxyType({path: MappingProxyType(metadata) for path, metadata in processed.items()}),
        problems=tuple(problems),
    )


def _processed(run_uid: str, settings: Settings) -> dict[str, dict[str, Any]]:
    from bluesky_prefect.tiled_api import Catalog, results_of

    with Catalog.connect(settings) as catalog:
        return results_of(catalog, run_uid)
