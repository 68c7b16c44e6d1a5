"""Seeing what became of runs: looks at the outbox and asks Prefect, and changes nothing in either."""

from bluesky_prefect.watch.listing import list_flow_runs
from bluesky_prefect.watch.waiting import wait_for_flow_runs
from bluesky_prefect.watch.workflow_status import WorkflowStatus

__all__ = ["WorkflowStatus", "list_flow_runs", "wait_for_flow_runs"]
