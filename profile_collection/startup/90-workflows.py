"""Flows to call by hand, such as export(ref=-2), and a greeting."""

from bluesky_prefect.session import export, fun_fact, greet, my_workflow

greet(globals())
