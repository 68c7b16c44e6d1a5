"""What Prefect knows of the runs, asked without any of the code that is tested."""

import datetime
from collections.abc import Iterator
from typing import Any

import httpx

from bluesky_prefect.stack import StackInfo
from tests.services.prefect_process import wait_until

_PAGE = 200
_ALWAYS = {"since": "2000-01-01T00:00:00Z", "until": "9999-01-01T00:00:00Z"}
FLOW = "my-workflow"


class PrefectView:
    """Flow runs of ``my-workflow``, by run.

    Parameters
    ----------
    info : StackInfo
        The stack it belongs to.
    """

    def __init__(self, info: StackInfo) -> None:
        self._client = httpx.Client(base_url=info.prefect_api_url, headers=info.prefect_headers, timeout=30)

    def close(self) -> None:
        self._client.close()

    def completed(self, since: datetime.datetime | None = None) -> list[str]:
        """Return the run of each flow run that completed (after `since`): one that comes twice was processed twice."""
        ended = {"end_time": {"after_": since.isoformat()}} if since else {}
        return [one["parameters"]["ref"] for one in self.flow_runs("COMPLETED", **ended)]

    def flow_runs(self, *states: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield the flow runs of ``my-workflow`` that started on a run."""
        if states:
            filters["state"] = {"type": {"any_": list(states)}}
        # By time of creation: pages must not shift while they are read.
        body = {"flows": {"name": {"any_": [FLOW]}}, "flow_runs": filters, "limit": _PAGE, "sort": "START_TIME_ASC"}
        offset = 0
        while page := self._post("/flow_runs/filter", {**body, "offset": offset}):
            yield from page
            offset += len(page)

    def under_way(self) -> int:
        """Return how many flow runs somebody says to be executing."""
        return len(list(self.flow_runs("PENDING", "RUNNING")))

    def list_long_ago(self) -> None:
        """Have the workflows been on their list always: clocks are set back here to before that began."""
        for one in self._post("/variables/filter", {}):
            if one["name"].startswith("bluesky-prefect-since-"):
                dated = {"value": "2000-01-01T00:00:00+00:00"}
                self._client.patch(f"/variables/name/{one['name']}", json=dated).raise_for_status()

    def set_state(self, flow_run_id: str, state: str) -> None:
        """Do what a worker does that takes a flow run, or its process."""
        self._post(f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": state}, "force": True})

    def seconds_in_state(self, flow_run_id: str) -> float:
        """Return how long a flow run has been in its state, by the server's clock and no other."""
        body = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
        [flow_run] = self._post("/flow_runs/filter", body)
        return max(flow_run["estimated_run_time"], flow_run["estimated_start_time_delta"])

    def heartbeats(self, flow_run_id: str) -> int:
        """Return how many heartbeats a flow run has sent."""
        resource = {"id": [f"prefect.flow-run.{flow_run_id}"]}
        wanted = {"resource": resource, "event": {"name": ["prefect.flow-run.heartbeat"]}, "occurred": _ALWAYS}
        return self._post("/events/filter", {"filter": wanted})["total"]

    def worker_heartbeat(self, pool: str, name: str, interval_s: int) -> None:
        """Do what a worker does to be online for a while."""
        self._send(f"/work_pools/{pool}/workers/heartbeat", {"name": name, "heartbeat_interval_seconds": interval_s})

    def complete_again(self, uid: str) -> None:
        """Make one more completed flow run on a run, as a broken forwarder would."""
        [first] = [one for one in self.flow_runs("COMPLETED") if one["parameters"]["ref"] == uid]
        # Completed from the beginning: an executor would take it otherwise.
        made = {"parameters": {"ref": uid}, "state": {"type": "COMPLETED", "name": "Completed"}}
        self._post(f"/deployments/{first['deployment_id']}/create_flow_run", made)

    def delete(self, uid: str) -> None:
        """Delete the flow runs on a run, as a lost database would."""
        for one in [one for one in self.flow_runs() if one["parameters"]["ref"] == uid]:
            self._client.delete(f"/flow_runs/{one['id']}").raise_for_status()

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        return self._send(path, content).json()

    def _send(self, path: str, content: dict[str, Any]) -> httpx.Response:
        def post() -> httpx.Response | None:
            try:
                response = self._client.post(path, json=content)
            except httpx.TransportError:
                return None  # it is just being killed or started
            return None if response.status_code in (500, 503) else response

        response = wait_until(post, timeout_s=120)
        return response.raise_for_status()
