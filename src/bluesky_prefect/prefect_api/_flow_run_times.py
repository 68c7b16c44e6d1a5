"""Times at which flow runs began and ended."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from bluesky_prefect.prefect_api._client import SAME_TIME_S, PrefectApi, prefect_errors


@dataclass(frozen=True)
class FlowRunTimes:
    """Times at which a flow run began and ended.

    Attributes
    ----------
    state_type : str
        Type of its state, for example ``RUNNING``.
    running, ended : float or None
        When it began and ended, by this machine's clock, in seconds since the epoch; None if it has not.
    """

    state_type: str
    running: float | None
    ended: float | None


def flow_run_times(api: PrefectApi, ids: Collection[str]) -> dict[str, FlowRunTimes]:
    """Return the times of those of these flow runs that Prefect has, in one request.

    At most 200, which is Prefect's own limit for one answer. Raises `PrefectUnavailable` if Prefect cannot be asked.
    """
    from prefect.client.schemas.filters import FlowRunFilter

    with prefect_errors():
        wanted = FlowRunFilter.model_validate({"id": {"any_": list(ids)}})
        read = api.client.read_flow_runs(flow_run_filter=wanted, limit=len(ids))
        ahead_s = api.now() - time.time()
    if abs(ahead_s) < SAME_TIME_S:
        ahead_s = 0.0  # the server tells its time in whole seconds

    def here(moment: datetime | None) -> float | None:
        return moment and moment.timestamp() - ahead_s

    return {
        str(one.id): FlowRunTimes(
            one.state.type.value if one.state else "SCHEDULED", here(one.start_time), here(one.end_time)
        )
        for one in read
    }
