"""What plans wait for flow runs with."""

from bluesky_prefect.plan_stubs.result import FlowResult
from bluesky_prefect.plan_stubs.waiting import wait_for_flow

__all__ = ["FlowResult", "wait_for_flow"]
