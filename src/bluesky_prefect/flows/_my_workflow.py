"""The flow that starts when a run stops."""

from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from bluesky_prefect.core import get_settings
from bluesky_prefect.flows._export import export
from bluesky_prefect.flows._fun_fact import fun_fact
from bluesky_prefect.flows.common._artifacts import artifacts_on_this_page
from bluesky_prefect.flows.common._plain_flow import gather_all, plain_flow


@plain_flow(name="my-workflow", log_prints=True)
async def my_workflow(ref: int | str, date: str | None = None, dry_run: bool = False) -> State[Any]:
    """Get a fun fact and export a run, at once; without the fact, the export is done all the same.

    Where ``BLUESKY_PREFECT_CAT_FACT`` is false, it only exports.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.
    date : str, optional
        The day to ask for the weather of, as ``YYYY-MM-DD``; the run's own start day if not given.
    dry_run : bool
        Only say what would be written, and where.

    Returns
    -------
    str
        The folder that the run was exported to.
    """
    facts = []
    if get_settings().cat_fact and not dry_run:
        print("Getting fun fact...")
        facts = [fun_fact(return_state=True)]
    print("Now exporting a file...")
    with artifacts_on_this_page():
        exported, *facts = await gather_all(export(ref, date=date, dry_run=dry_run, return_state=True), *facts)
    for fact in facts:
        if not fact.is_completed():  # one that is unavailable is
            get_run_logger().warning("Done without a fun fact: %s", fact.message)
    folder = await exported.aresult()  # raises what the export raised
    print("Done!")
    return Completed(message=exported.message or "exported", data=folder)
