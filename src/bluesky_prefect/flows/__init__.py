"""The Prefect flows: what happens to a run after it stopped."""

from bluesky_prefect.flows._arguments import checked_arguments
from bluesky_prefect.flows._data_validation import data_validation
from bluesky_prefect.flows._export import export
from bluesky_prefect.flows._find_peak import find_peak
from bluesky_prefect.flows._fun_fact import fun_fact
from bluesky_prefect.flows._my_workflow import my_workflow
from bluesky_prefect.flows.common._plain_flow import plain_flow
from bluesky_prefect.flows.common._run_access import read_run, write_result
from bluesky_prefect.flows.export_parts._claimed_folder import OWNER
from bluesky_prefect.tiled_api import RunData

__all__ = [
    "OWNER",
    "RunData",
    "checked_arguments",
    "data_validation",
    "export",
    "find_peak",
    "fun_fact",
    "my_workflow",
    "plain_flow",
    "read_run",
    "write_result",
]
