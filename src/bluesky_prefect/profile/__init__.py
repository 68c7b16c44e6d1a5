"""The logic of the IPython profile; its startup files only name what is here."""

from bluesky_prefect.kept_runs import read_documents, send_run
from bluesky_prefect.profile.ipython import open_ipython
from bluesky_prefect.profile.session import Session, start_session
from bluesky_prefect.profile.workflows import export, fun_fact, my_workflow

__all__ = [
    "Session",
    "export",
    "fun_fact",
    "my_workflow",
    "open_ipython",
    "read_documents",
    "send_run",
    "start_session",
]
