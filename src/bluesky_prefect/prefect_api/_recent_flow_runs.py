"""The last flow runs that came of runs, whoever made them.

Each function raises `PrefectUnavailable` if Prefect cannot be asked.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bluesky_prefect.prefect_api._client import PrefectApi, prefect_errors
from bluesky_prefect.prefect_api._flow_runs import PastFlowRun, is_of_run, past_flow_run
from bluesky_prefect.prefect_api._states import FAILED_STATES

if TYPE_CHECKING:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.sorting import FlowRunSort

# Prefect's own limit for one answer (PREFECT_SERVER_API_DEFAULT_LIMIT).
_PAGE = 200
# Flow runs that are nothing to do with runs may stand between; so many pages are looked through.
_PAGES = 10
# For a beamline without failures, Prefect looks through those of all others. People have been told of older ones, and
# clocks may differ by a day.
_LAST = timedelta(days=2)


def recent_flow_runs(
    api: PrefectApi,
    *,
    failed: bool = False,
    scan_id: int | None = None,
    run_uid: str | None = None,
    beamline: str | None = None,
) -> Iterator[PastFlowRun]:
    """Yield the last flow runs that came of runs, newest first; those made by hand have no run's uid.

    All, or those that failed or crashed; of all runs, or of one scan id, uid or beamline.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    wanted = {"scan_id": scan_id, "uid": run_uid, "beamline": beamline}
    tags = [f"{name}:{value}" for name, value in wanted.items() if value is not None]
    for page in range(_PAGES):
        newest = FlowRunSort.EXPECTED_START_TIME_DESC
        read = _read(api, newest, failed=failed, tags=tags, limit=_PAGE, offset=page * _PAGE)
        yield from map(past_flow_run, filter(_is_of_run, read))
        if len(read) < _PAGE:
            return


def last_failed_flow_runs(api: PrefectApi, count: int, *, beamline: str | None = None) -> list[PastFlowRun]:
    """Return the flow runs made for runs, of one beamline or all, that failed or crashed last, within two days.

    One request, whose cost does not grow with what Prefect keeps.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    tags = [] if beamline is None else [f"beamline:{beamline}"]
    since = datetime.now(UTC) - _LAST
    read = _read(api, FlowRunSort.END_TIME_DESC, failed=True, tags=tags, limit=count, ended_after=since)
    return [one for one in map(past_flow_run, filter(_is_of_run, read)) if one.run_uid]


def _read(
    api: PrefectApi,
    sort: "FlowRunSort",
    *,
    failed: bool,
    tags: list[str],
    limit: int,
    offset: int = 0,
    ended_after: datetime | None = None,
) -> "list[FlowRun]":
    import httpx
    from prefect.client.schemas.filters import FlowRunFilter

    asked: dict[str, Any] = {
        "parent_task_run_id": {"is_null_": True},  # flow runs within flow runs are shown by their parents
        **({"state": {"type": {"any_": FAILED_STATES}}} if failed else {}),
        **({"tags": {"all_": tags}} if tags else {}),
        **({_when_it_was(FlowRunFilter): {"after_": ended_after}} if ended_after else {}),
    }
    by_nobody = {"created_by": {"is_null_": True}}  # scheduled ones do not belong to a run

    def read(asked: dict[str, Any]) -> "list[FlowRun]":
        wanted = FlowRunFilter.model_validate(asked)
        return api.client.read_flow_runs(flow_run_filter=wanted, sort=sort, limit=limit, offset=offset)

    with prefect_errors():
        try:
            return read({**asked, **by_nobody})
        except httpx.HTTPStatusError as error:
            # A server before Prefect 3.7 refuses to know who made a flow run. Then `_is_of_run` alone leaves those out.
            if error.response.status_code != 422:
                raise
            return read(asked)


def _when_it_was(kind: "type[FlowRunFilter]") -> str:
    """Return by what flow runs that ended lately are asked for: older clients know only when they were to begin."""
    return "end_time" if "end_time" in kind.model_fields else "expected_start_time"


def _is_of_run(flow_run: "FlowRun") -> bool:
    return not flow_run.auto_scheduled and is_of_run(flow_run.tags, flow_run.parameters)
