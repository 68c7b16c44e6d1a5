"""Ending a worker without leaving flow runs behind that claim to be running."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from bluesky_prefect.stack._info import StackInfo

_UNDER_WAY = ["PENDING", "RUNNING", "CANCELLING"]


def drain(
    info: StackInfo,
    work_pool: str,
    *,
    stop_worker: Callable[[], None],
    timeout_s: float,
    report: Callable[[str], None],
) -> None:
    """Let flow runs under way finish for `timeout_s`, stop the worker, and mark those that did not as crashed.

    Flow runs that wait for a worker go on waiting: the next worker takes them. A worker that is told to stop may mark
    its flow runs by itself; they are told of all the same.

    Raises
    ------
    StackError
        If Prefect cannot be asked.
    """
    info.ask_prefect(f"work_pools/{quote(work_pool)}", method="PATCH", body={"is_paused": True})
    left = _under_way(info, work_pool)
    if left:
        report(f"Waiting up to {timeout_s:.0f} s for {len(left)} flow run(s) to finish")
    deadline = time.monotonic() + timeout_s
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = _under_way(info, work_pool)
    stop_worker()
    for flow_run in _under_way(info, work_pool):
        state = {"type": "CRASHED", "name": "Crashed", "message": "Stopped with the local stack before it ended."}
        info.ask_prefect(f"flow_runs/{flow_run['id']}/set_state", body={"state": state, "force": True})
        left.append(flow_run)
    if not left:
        return
    ids = list({flow_run["id"] for flow_run in left})
    for flow_run in _flow_runs(info, {"id": {"any_": ids}, "state": {"type": {"any_": ["CRASHED"]}}}):
        report(f"Flow run {flow_run['name']} was stopped; retry it from the UI when the stack is up again")


def _under_way(info: StackInfo, work_pool: str) -> list[dict[str, Any]]:
    return _flow_runs(info, {"state": {"type": {"any_": _UNDER_WAY}}}, work_pools={"name": {"any_": [work_pool]}})


def _flow_runs(info: StackInfo, wanted: dict[str, Any], **others: Any) -> list[dict[str, Any]]:
    return info.ask_prefect("flow_runs/filter", body={"flow_runs": wanted, "limit": 200, **others})
