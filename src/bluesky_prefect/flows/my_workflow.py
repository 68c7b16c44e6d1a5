"""What starts when a run stops."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from bluesky_prefect.flows.export import export
from bluesky_prefect.flows.fun_fact import fun_fact


@flow(name="my-workflow", log_prints=True)
def my_workflow(ref: int | str, date: str | None = None) -> State[Any]:
    """Get a fun fact, then export a run; without the fact, the export is done all the same.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.
    date : str, optional
        The day to ask for the weather of, as ``YYYY-MM-DD``; the run's own start day if not given.

    Returns
    -------
    str
        The folder that the run was exported to.
    """
    print("Getting fun fact...")
    fact = fun_fact(return_state=True)
    if not fact.is_completed():
        get_run_logger().warning("Going on without a fun fact: %s", fact.message)
    print("Now exporting a file...")
    exported = export(ref, date=date, return_state=True)
    folder = exported.result()  # raises what the export raised
    print("Done!")
    message = exported.message or "exported"
    if not fact.is_completed():
        message += f"; fun-fact failed: {fact.message}"
    return Completed(message=message, data=folder)
