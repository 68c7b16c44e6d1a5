"""The list of workflows that a campaign's listeners have: probes start none."""

from bluesky_prefect.core import Run, Workflow
from tests.chaos.acquisition import DEPLOYMENT, PROBE


def _is_run(run: Run) -> bool:
    return PROBE not in run.start


WORKFLOWS = [Workflow(DEPLOYMENT, when=_is_run)]
