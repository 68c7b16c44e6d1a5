"""Find the peak that a scan of one motor shows, for the plan that waits for it."""

import asyncio
from dataclasses import asdict
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from bluesky_prefect.core import one_line
from bluesky_prefect.flows.common._plain_flow import plain_flow
from bluesky_prefect.flows.common._run_access import finished_run, write_result
from bluesky_prefect.tiled_api import RunData, Stream


@plain_flow(name="find-peak")
async def find_peak(ref: int | str) -> State[Any]:
    """Find the peak that a run's first detector shows over its motor, and write it to Tiled.

    Doing it again for the same run replaces what is in Tiled. That there is no peak is a finding too: it is written
    with the reason.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.

    Returns
    -------
    dict
        What was found: ``found``, ``motor``, ``detector``, and those of `peak.Peak`, or ``reason``.

    Raises
    ------
    FlowInputError
        If `ref` cannot name a run.
    RunNotFound, RunIncomplete
        If Tiled has no such run, or not its end.
    """
    run = await finished_run(ref)
    found, table = _found(run)
    path = await asyncio.to_thread(write_result, run, "peak", table, **found)
    what = f"{found['detector']} has its peak at {found['motor']} {found['center']:g}" if found["found"] else "no peak"
    why = f": {found['reason']}" if "reason" in found else f", {found['fwhm']:g} wide"
    return Completed(message=one_line(f"{run.label}: {what}{why}; {path} in Tiled"), data=found)


def _found(run: RunData) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is to be told of the peak, and the points."""
    from bluesky_prefect.flows import _peak as peak  # numpy comes with it

    stream, motors = run.scanned()
    if stream is None or len(motors) != 1 or not (detectors := _detectors(stream, motors)):
        return {"found": False, "reason": "not a scan of one motor with a detector that gives numbers"}, {"points": [0]}
    [motor], detector = motors, detectors[0]
    positions, readings = stream.numbers(motor), stream.numbers(detector)
    result = peak.find(positions, readings)
    names = {"motor": motor, "detector": detector}
    told = {"reason": result} if isinstance(result, str) else asdict(result)
    return {"found": not isinstance(result, str), **names, **told}, {motor: positions, detector: readings}


def _detectors(stream: Stream, motors: list[str]) -> list[str]:
    """Return the detectors; what a motor tells of itself beside its position is none."""
    moved = {stream.device(motor) for motor in motors}
    return [key for key in stream.detectors(motors) if stream.device(key) not in moved]
