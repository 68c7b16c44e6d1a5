"""The last flow runs that were made for runs, whoever made them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bluesky_prefect.prefect_api._client import PrefectApi, prefect_errors
from bluesky_prefect.prefect_api._flow_runs import PastFlowRun, past_flow_run
from bluesky_prefect.prefect_api._states import FAILED_STATES

if TYPE_CHECKING:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.sorting import FlowRunSort

# Prefect's own limit for one answer (PREFECT_SERVER_API_DEFAULT_LIMIT).
_PAGE = 200
# Flow runs that are nothing to do with runs may stand between; so many pages are looked through.
_PAGES = 10


def recent_flow_runs(
    api: PrefectApi, *, failed: bool = False, scan_id: int | None = None, run_uid: str | None = None
) -> Iterator[PastFlowRun]:
    """Yield the last flow runs that were made for runs, newest first.

    Parameters
    ----------
    api : PrefectApi
        Open.
    failed : bool, optional
        Only those that failed or crashed.
    scan_id : int, optional
        Only those of runs with this scan id.
    run_uid : str, optional
        Only those of this run.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    wanted = {"scan_id": scan_id, "uid": run_uid}
    asked = _filter(failed, [f"{name}:{value}" for name, value in wanted.items() if value is not None])
    for page in range(_PAGES):
        read = _read(api, asked, FlowRunSort.EXPECTED_START_TIME_DESC, limit=_PAGE, offset=page * _PAGE)
        for one in read:
            yield from _of_run(one)
        if len(read) < _PAGE:
            return


def last_failed_flow_runs(api: PrefectApi, count: int) -> list[PastFlowRun]:
    """Return the flow runs of runs that failed or crashed last.

    One request, whose cost does not grow with what there is.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    read = _read(api, _filter(True, []), FlowRunSort.END_TIME_DESC, limit=count)
    return [one for flow_run in read for one in _of_run(flow_run)]


def _filter(failed: bool, tags: list[str]) -> "FlowRunFilter":
    from prefect.client.schemas.filters import FlowRunFilter

    asked = {
        # Flow runs within flow runs are shown by their parents; scheduled ones do not belong to a run.
        "parent_task_run_id": {"is_null_": True},
        "created_by": {"is_null_": True},
        **({"state": {"type": {"any_": FAILED_STATES}}} if failed else {}),
        **({"tags": {"all_": tags}} if tags else {}),
    }
    return FlowRunFilter.model_validate(asked)


def _read(
    api: PrefectApi, asked: "FlowRunFilter", sort: "FlowRunSort", *, limit: int, offset: int = 0
) -> "list[FlowRun]":
    with prefect_errors():
        return api.client.read_flow_runs(flow_run_filter=asked, sort=sort, limit=limit, offset=offset)


def _of_run(flow_run: "FlowRun") -> Iterator[PastFlowRun]:
    """Yield a flow run if it was made for a run."""
    past = past_flow_run(flow_run)
    if past.run_uid and any(tag.startswith("uid:") for tag in past.tags):
        yield past
