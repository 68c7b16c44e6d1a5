"""The last flow runs that came of runs, and what still waits to become one."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from bluesky_prefect.core import OutboxError, PrefectUnavailable, Settings, counted, get_settings
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import Entry, State, existing_outbox
from bluesky_prefect.prefect_api import PrefectApi, known_beamlines, last_failed_flow_runs, recent_flow_runs
from bluesky_prefect.watch._workflow_status import WorkflowStatus, from_entry, from_flow_run

# Stands for the flow runs of all beamlines.
ALL_BEAMLINES = "*"
# A run that goes on longer than this without a document is not what somebody waits for.
_LATE_S = 10.0


@dataclass(frozen=True)
class Listing:
    """The flow runs found, and the problems met.

    Attributes
    ----------
    workflows : tuple of WorkflowStatus
        Newest first.
    problems : tuple of str
        Why the outbox or Prefect did not tell, or that there is no such beamline; empty if all is well.
    recorded : tuple of str
        A line on runs that are on their way to Tiled, and one on those that it refuses, if there are any.
    beamline : str or None
        The beamline that they are of; None if all were asked for.
    """

    workflows: tuple[WorkflowStatus, ...]
    problems: tuple[str, ...] = ()
    recorded: tuple[str, ...] = ()
    beamline: str | None = None


def list_flow_runs(
    count: int = 10,
    *,
    failed: bool = False,
    scan_id: int | None = None,
    beamline: str | None = None,
    settings: Settings | None = None,
) -> list[WorkflowStatus]:
    """Return the last flow runs that came of runs, whoever took them, and what waits in this machine's outbox.

    Parameters
    ----------
    count : int
        How many at most.
    failed : bool
        Only those that failed or crashed, and dead letters.
    scan_id : int, optional
        Only those of runs with this scan id.
    beamline : str, optional
        Only those of this beamline; ``"*"`` stands for all. By default those of the setting ``beamline``.
    settings : Settings, optional
        Where the outbox is; from the environment by default.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    OutboxError
        If the outbox cannot be read.
    """
    settings = settings or get_settings()
    of = _wanted(beamline, settings)
    unsent = _unsent(settings, count, failed, scan_id, of)
    with PrefectApi(settings.request_timeout_s, client_retries=True) as api:
        return _newest([*unsent, *flow_runs(api, count, failed=failed, scan_id=scan_id, beamline=of)], count)


def look_up(
    count: int = 10,
    *,
    failed: bool = False,
    scan_id: int | None = None,
    beamline: str | None = None,
    settings: Settings | None = None,
    explain: Callable[[PrefectUnavailable], str] = str,
) -> Listing:
    """Do what `list_flow_runs` does, with what can be asked: what is away is told of, never an error.

    `explain` says why Prefect cannot be asked.
    """
    settings = settings or get_settings()
    of = _wanted(beamline, settings)
    found: list[WorkflowStatus] = []
    problems: list[str] = []

    def tolerated(ask: Callable[[], list[WorkflowStatus]]) -> None:
        try:
            found.extend(ask())
        except OutboxError as error:
            problems.append(str(error))
        except PrefectUnavailable as error:
            problems.append(explain(error))

    def of_prefect() -> list[WorkflowStatus]:
        with PrefectApi(settings.request_timeout_s) as api:
            listed = flow_runs(api, count, failed=failed, scan_id=scan_id, beamline=of)
            # The session's own has a name before it has anything else.
            if of and of != settings.beamline and not (found or listed):
                problems.extend(_unknown(api, of))
            return listed

    tolerated(lambda: _unsent(settings, count, failed, scan_id, of))
    tolerated(of_prefect)
    return Listing(tuple(_newest(found, count)), tuple(problems), tuple(_recorded(settings)), of)


def flow_runs(
    api: PrefectApi, count: int, *, failed: bool = False, scan_id: int | None = None, beamline: str | None = None
) -> list[WorkflowStatus]:
    """Return the last flow runs that came of runs, newest first.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    recent = recent_flow_runs(api, failed=failed, scan_id=scan_id, beamline=beamline)
    return [from_flow_run(one) for one in islice(recent, count)]


def last_failures(api: PrefectApi, count: int, *, beamline: str | None = None) -> list[tuple[WorkflowStatus, float]]:
    """Return the flow runs of runs that failed or crashed last, and when, in seconds since the epoch.

    Those of one beamline, or all.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    return [(from_flow_run(one), one.changed) for one in last_failed_flow_runs(api, count, beamline=beamline)]


def flow_runs_of(api: PrefectApi, run_uid: str) -> list[WorkflowStatus]:
    """Return how the workflows of a run are doing that Prefect knows of, whoever started them.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    # The last flow run of a workflow counts, which comes first.
    last: dict[str, WorkflowStatus] = {}
    for one in recent_flow_runs(api, run_uid=run_uid):
        if one.run_uid == run_uid:
            last.setdefault(one.workflow, from_flow_run(one))
    return list(last.values())


def _recorded(settings: Settings) -> Iterator[str]:
    directory = JournalDirectory(settings.journals_path)
    if waiting := directory.waiting():
        oldest_s = max(0.0, time.time() - waiting[-1].written)
        late = f", the oldest last written {oldest_s:.0f} s ago" if oldest_s > _LATE_S else ""
        yield f"On the way to Tiled: {counted(len(waiting), 'run')}{late}."
    if refused := directory.refused():
        yield f"Refused by Tiled: {counted(len(refused), 'run')}; see 'bluesky-prefect journal list'."


def _wanted(beamline: str | None, settings: Settings) -> str | None:
    if beamline is None:
        return settings.beamline
    return None if beamline == ALL_BEAMLINES else beamline


def _unknown(api: PrefectApi, beamline: str) -> Iterator[str]:
    """Yield that Prefect knows no such beamline, if so: most often its name was mistyped."""
    known = known_beamlines(api)
    if beamline not in known and not flow_runs(api, 1, beamline=beamline):
        others = f"It has those of {', '.join(known)}." if known else "It has none of any beamline."
        yield f"Prefect has no deployment and no flow run of a beamline {beamline!r}. {others}"


def _unsent(
    settings: Settings, count: int, failed: bool, scan_id: int | None, beamline: str | None
) -> list[WorkflowStatus]:
    with existing_outbox(settings.outbox_path) as outbox:
        if outbox is None:
            return []
        if scan_id is not None:
            entries: list[Entry] = outbox.named(str(scan_id), unsent=True, limit=count)
            entries = [one for one in entries if one.scan_id == scan_id and (one.state == "dead" or not failed)]
        else:
            states: list[State] = ["dead"] if failed else ["dead", "waiting"]
            entries = [one for state in states for one in outbox.entries(state=state, limit=count)]
    # Of what was taken before the beamline had a name, this machine knows that it was here.
    ours = (None, beamline)
    found = [from_entry(entry) for entry in entries if not entry.is_message]
    return [one for one in found if beamline is None or one.beamline in ours]


def _newest(found: list[WorkflowStatus], count: int) -> list[WorkflowStatus]:
    # What was sent between the two questions would be there twice.
    sent = {(one.run_uid, one.workflow) for one in found if one.flow_run_id}
    once = [one for one in found if one.flow_run_id or (one.run_uid, one.workflow) not in sent]
    return sorted(once, key=lambda one: one.created, reverse=True)[:count]
