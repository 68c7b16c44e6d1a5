"""Flows to call by hand, such as export(ref=-2)."""

from bluesky_prefect.session import export, fun_fact, my_workflow
