"""The flows as functions of the prompt; Prefect is imported when one is first called."""

from typing import Any

from bluesky_prefect.core import BlueskyPrefectError


def my_workflow(ref: int | str) -> Any:
    """Get a fun fact, then export a run.

    Parameters
    ----------
    ref : int or str
        Scan id, uid (whole or its beginning), or -1 for the last run, -2 for the one before, and so on.
    """
    from bluesky_prefect.flows import my_workflow as flow

    _wait()
    return _call(flow, ref)


def export(ref: int | str, **options: Any) -> Any:
    """Export a run to files, with the weather of its day.

    Parameters
    ----------
    ref : int or str
        Scan id, uid (whole or its beginning), or -1 for the last run, -2 for the one before, and so on.
    **options
        Further parameters of the flow: ``lat``, ``lon``, ``date``, ``timezone`` and others, see
        `bluesky_prefect.flows._export`.
    """
    from bluesky_prefect.flows import export as flow

    _wait()
    return _call(flow, ref, **options)


def fun_fact() -> Any:
    """Ask for a fact about cats."""
    from bluesky_prefect.flows import fun_fact as flow

    return _call(flow)


def _wait() -> None:
    """Wait until Tiled has the run just taken."""
    from bluesky_prefect.session._courier import wait_until_delivered

    wait_until_delivered()


def _call(flow: Any, *arguments: Any, **options: Any) -> Any:
    """Call a flow; its failures come without the hundred lines of Prefect's own traceback."""
    from prefect.exceptions import FailedRun

    try:
        return flow(*arguments, **options)
    except BlueskyPrefectError as error:
        raise error.with_traceback(None) from None
    except FailedRun as error:
        raise BlueskyPrefectError(str(error)) from None
