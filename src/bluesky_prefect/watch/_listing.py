"""The last flow runs that came of runs, and what still waits to become one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from bluesky_prefect.core import OutboxError, PrefectUnavailable, Settings, get_settings, key_parts
from bluesky_prefect.outbox import Entry, State, existing_outbox
from bluesky_prefect.prefect_api import PrefectApi, explained, past_flow_run, ui_url
from bluesky_prefect.watch._workflow_status import WorkflowStatus, from_entry, from_flow_run

if TYPE_CHECKING:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.sorting import FlowRunSort

# Prefect's own limit for one answer (PREFECT_SERVER_API_DEFAULT_LIMIT).
_PAGE = 200
# Flow runs that are nothing to do with runs may stand between; so many pages are looked through.
_PAGES = 10
_FAILED = ["FAILED", "CRASHED"]


@dataclass(frozen=True)
class Listing:
    """What was found, and what could not be asked.

    Attributes
    ----------
    workflows : tuple of WorkflowStatus
        Newest first.
    problems : tuple of str
        Why the outbox or Prefect did not tell; empty if both did.
    """

    workflows: tuple[WorkflowStatus, ...]
    problems: tuple[str, ...] = ()


def list_flow_runs(
    count: int = 10, *, failed: bool = False, scan_id: int | None = None, settings: Settings | None = None
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
    unsent = _unsent(settings, count, failed, scan_id)
    with PrefectApi(settings.request_timeout_s, asks_again=True) as api:
        return _newest([*unsent, *flow_runs(api, count, failed=failed, scan_id=scan_id)], count)


def look(
    count: int = 10, *, failed: bool = False, scan_id: int | None = None, settings: Settings | None = None
) -> Listing:
    """Do what `list_flow_runs` does, with what can be asked: what is away is told of, never an error."""
    settings = settings or get_settings()
    found: list[WorkflowStatus] = []
    problems: list[str] = []

    def tolerated(ask: Callable[[], list[WorkflowStatus]]) -> None:
        try:
            found.extend(ask())
        except (OutboxError, PrefectUnavailable) as error:
            problems.append(str(error))

    def of_prefect() -> list[WorkflowStatus]:
        with PrefectApi(settings.request_timeout_s) as api:
            return flow_runs(api, count, failed=failed, scan_id=scan_id)

    tolerated(lambda: _unsent(settings, count, failed, scan_id))
    tolerated(of_prefect)
    return Listing(tuple(_newest(found, count)), tuple(problems))


def flow_runs(api: PrefectApi, count: int, *, failed: bool = False, scan_id: int | None = None) -> list[WorkflowStatus]:
    """Return the last flow runs that came of runs, newest first.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    asked = _filter(failed=failed, tag=None if scan_id is None else f"scan_id:{scan_id}")
    return list(islice(_of_runs(api, asked, FlowRunSort.EXPECTED_START_TIME_DESC), count))


def last_failures(api: PrefectApi, count: int) -> list[tuple[WorkflowStatus, float]]:
    """Return the flow runs of runs that failed or crashed last, and when, in seconds since the epoch.

    One request, whose cost does not grow with what there is.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    read = _page(api, _filter(failed=True), FlowRunSort.END_TIME_DESC, limit=count)
    return [(status, changed) for flow_run in read for status, changed in _of_run(flow_run)]


def flow_runs_of(api: PrefectApi, run_uid: str) -> list[WorkflowStatus]:
    """Return how the workflows of a run are doing that Prefect knows of, whoever started them.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    # The last flow run of a workflow counts, which comes first.
    found = _of_runs(api, _filter(tag=f"uid:{run_uid}"), FlowRunSort.EXPECTED_START_TIME_DESC)
    last: dict[str, WorkflowStatus] = {}
    for one in found:
        if one.run_uid == run_uid:
            last.setdefault(one.workflow, one)
    return list(last.values())


def _filter(*, failed: bool = False, tag: str | None = None) -> "FlowRunFilter":
    from prefect.client.schemas.filters import FlowRunFilter

    asked = {
        # Flow runs within flow runs are shown by their parents; those that a schedule made are no runs'.
        "parent_task_run_id": {"is_null_": True},
        "created_by": {"is_null_": True},
        **({"state": {"type": {"any_": _FAILED}}} if failed else {}),
        **({} if tag is None else {"tags": {"all_": [tag]}}),
    }
    return FlowRunFilter.model_validate(asked)


def _of_runs(api: PrefectApi, asked: "FlowRunFilter", sort: "FlowRunSort") -> Iterator[WorkflowStatus]:
    for page in range(_PAGES):
        read = _page(api, asked, sort, limit=_PAGE, offset=page * _PAGE)
        for flow_run in read:
            for status, _ in _of_run(flow_run):
                yield status
        if len(read) < _PAGE:
            return


def _page(
    api: PrefectApi, asked: "FlowRunFilter", sort: "FlowRunSort", *, limit: int, offset: int = 0
) -> "list[FlowRun]":
    with explained():
        return api.client.read_flow_runs(flow_run_filter=asked, sort=sort, limit=limit, offset=offset)


def _of_run(flow_run: "FlowRun") -> Iterator[tuple[WorkflowStatus, float]]:
    """Yield what a flow run says of a run and when it came into that state; nothing, if it is not made for one."""
    parts = key_parts(flow_run.idempotency_key or "")
    if parts and any(tag.startswith("uid:") for tag in flow_run.tags):
        uid, workflow, generation = parts
        past = past_flow_run(flow_run, generation)
        yield from_flow_run(past, uid, workflow, ui_url()), past.changed


def _unsent(settings: Settings, count: int, failed: bool, scan_id: int | None) -> list[WorkflowStatus]:
    with existing_outbox(settings.outbox_path) as outbox:
        if outbox is None:
            return []
        if scan_id is not None:
            entries: list[Entry] = outbox.named(str(scan_id), unsent=True, limit=count)
            entries = [one for one in entries if one.scan_id == scan_id and (one.state == "dead" or not failed)]
        else:
            states: list[State] = ["dead"] if failed else ["dead", "waiting"]
            entries = [one for state in states for one in outbox.entries(state=state, limit=count)]
    return [from_entry(entry) for entry in entries]


def _newest(found: list[WorkflowStatus], count: int) -> list[WorkflowStatus]:
    return sorted(found, key=lambda one: one.created, reverse=True)[:count]
