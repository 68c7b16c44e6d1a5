"""An analysis of a run, started when the run ends.

At the prompt:  %run -i my_analysis.py   and then   my_analysis(-1)
Its test:       python -m pytest test_my_analysis.py
Its deployment: bluesky-prefect deploy my_analysis.py:my_analysis --add
Its line in the list of workflows, which --add writes: workflows.append(Workflow("my-analysis/local"))

What you change here counts from the next flow run on.
"""

from typing import Any

import pandas
from prefect import task

from bluesky_prefect.flows import RunData, plain_flow, read_run, write_result


@task
def analyse(run: RunData) -> pandas.DataFrame:
    """Return what is to be kept of the run. This is the part to change: it makes a table of statistics."""
    table = run.table()  # of the stream "primary": a row for each event
    # An array that a detector wrote: run.array("image_det")[0] reads its first frame.
    return table.drop(columns=["seq_num", "time"], errors="ignore").describe()


@task
def conclude(run: RunData, result: pandas.DataFrame) -> dict[str, Any]:
    """Return what people want to know at once: it goes to Tiled with the table, and can be searched there."""
    return {"points": len(run.table()), "columns": list(result.columns)}


@plain_flow(name="my-analysis", log_prints=True)
def my_analysis(ref: int | str) -> str:
    """Analyse a run and write the result to Tiled beside it; return its path there.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.
    """
    run = read_run(ref)
    if run.points == 0:
        return f"{run.label} has no events"
    result = analyse(run)
    path = write_result(run, "my-analysis", result, **conclude(run, result))
    print(f"{run.label}: wrote {path} to Tiled")
    return path
