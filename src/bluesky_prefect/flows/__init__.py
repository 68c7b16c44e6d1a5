"""The Prefect flows: what happens to a run after it stopped."""

from bluesky_prefect.flows.data_validation import data_validation
from bluesky_prefect.flows.export import export
from bluesky_prefect.flows.find_peak import find_peak
from bluesky_prefect.flows.fun_fact import fun_fact
from bluesky_prefect.flows.my_workflow import my_workflow

__all__ = ["data_validation", "export", "find_peak", "fun_fact", "my_workflow"]
