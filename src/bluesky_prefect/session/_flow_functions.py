"""The flows as functions of the prompt; Prefect is imported when one is first called."""

from typing import Any

from bluesky_prefect.core import BlueskyPrefectError, PrefectUnavailable, RunNotFound, get_settings
from bluesky_prefect.session._one_line import ctrl_c_held_back, in_one_line
from bluesky_prefect.session._tiled import TiledConnection


@in_one_line
def my_workflow(ref: int | str, **options: Any) -> Any:
    """Get a fun fact, then export a run.

    Parameters
    ----------
    ref : int or str
        Scan id, uid (whole or its beginning), or -1 for the last run, -2 for the one before, and so on.
    **options
        Further parameters of the flow: ``date``.
    """
    return _call("my_workflow", ref, **options)


@in_one_line
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
    return _call("export", ref, **options)


@in_one_line
def fun_fact() -> Any:
    """Ask for a fact about cats."""
    return _call("fun_fact")


def _call(name: str, *arguments: Any, **options: Any) -> Any:
    """Call a flow on a run that Tiled has; what is wrong with the call is said before there is a flow run."""
    with ctrl_c_held_back():
        from prefect.exceptions import FailedRun

        from bluesky_prefect import flows
    flow = getattr(flows, name)
    given = flows.checked_arguments(flow, *arguments, **options)
    _require_prefect()
    if "ref" in given:
        _require_run(given["ref"])
    try:
        return flow(**given)
    except FailedRun as error:
        raise BlueskyPrefectError(str(error)) from None


def _require_prefect() -> None:
    from bluesky_prefect.stack import PATIENCE_S, explain_absence, prefect_service

    service = prefect_service(PATIENCE_S)
    if service.problem:
        raise PrefectUnavailable(explain_absence(service, get_settings()))


def _require_run(ref: int | str) -> None:
    """Wait until Tiled has the run just taken; the flow itself looks whether it has the one that is meant."""
    from bluesky_prefect.session._courier import wait_until_delivered

    settings = TiledConnection(get_settings()).require()
    is_there = wait_until_delivered(settings)
    if not is_there and str(ref).strip().startswith("-"):
        raise RunNotFound(
            f"{ref} would be an older run: Tiled does not have the one just taken. Name the run you mean."
        )
