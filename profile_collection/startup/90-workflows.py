"""Flows to call by hand, such as export(ref=-2)."""

from bluesky_prefect.session._flow_functions import export, fun_fact, my_workflow
