"""Workflows of the local stack."""

from bluesky_prefect.core import DEFAULT_WORKFLOWS, Run, Workflow

# A run whose start document holds this, and True, has its peak looked for.
FIND_PEAK = "find_peak"


def wants_peak(run: Run) -> bool:
    """Tell whether a run asks for its peak: ``RE(plan, find_peak=True)``, or in the plan's own metadata."""
    return run.start.get(FIND_PEAK) is True


WORKFLOWS = (*DEFAULT_WORKFLOWS, Workflow("find-peak/local", when=wants_peak))
"""All of which the local stack has deployments."""
