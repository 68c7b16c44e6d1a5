"""The flows as functions of the prompt; Prefect is imported when one is first called."""

from typing import Any


def my_workflow(ref: int | str) -> Any:
    """Get a fun fact, then export a run.

    Parameters
    ----------
    ref : int or str
        Scan id, uid (whole or its beginning), or -1 for the last run, -2 for the one before, and so on.
    """
    from bluesky_prefect import flows

    return flows.my_workflow(ref)


def export(ref: int | str, **options: Any) -> Any:
    """Export a run to files, with the weather of its day.

    Parameters
    ----------
    ref : int or str
        Scan id, uid (whole or its beginning), or -1 for the last run, -2 for the one before, and so on.
    **options
        Further parameters of the flow: ``lat``, ``lon``, ``date``, ``timezone`` and others, see
        `bluesky_prefect.flows.export`.
    """
    from bluesky_prefect import flows

    return flows.export(ref, **options)


def fun_fact() -> Any:
    """Ask for a fact about cats."""
    from bluesky_prefect import flows

    return flows.fun_fact()
