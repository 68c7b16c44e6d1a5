"""Plans beyond bluesky's own, each showing something a callback meets at a beamline."""

from collections.abc import Sequence
from typing import Any, cast

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.protocols import NamedMovable, Readable
from bluesky.utils import MsgGenerator

from bluesky_prefect.plan_stubs import wait_for_flow


def find_peak(
    detector: Readable,
    motor: NamedMovable,
    start: float,
    stop: float,
    num: int = 11,
    *,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[float]:
    """Scan one motor, then leave it where the detector saw most.

    Parameters
    ----------
    detector : Readable
        Detector; its first hinted field is looked at.
    motor : NamedMovable
        Motor to scan.
    start : float
        First position.
    stop : float
        Last position.
    num : int
        Number of positions.
    md : dict
        Metadata.

    Returns
    -------
    float
        The position of the largest reading.
    """
    step = (stop - start) / (num - 1) if num > 1 else 0.0
    positions = [start + index * step for index in range(num)]
    field = detector.hints["fields"][0]  # type: ignore[attr-defined]  # every ophyd device has hints
    readings: list[float] = []

    @bpp.stage_decorator([detector, motor])
    @bpp.run_decorator(
        md={
            "plan_name": "find_peak",
            "detectors": [detector.name],
            "motors": [motor.name],
            "num_points": num,
            "hints": {"dimensions": [([motor.name], "primary")]},
            **(md or {}),
        }
    )
    def run() -> MsgGenerator[float]:
        for position in positions:
            yield from bps.mv(motor, position)
            reading = yield from bps.trigger_and_read([detector, cast("Readable", motor)])
            readings.append(reading[field]["value"] if reading else 0.0)
        best = positions[readings.index(max(readings))]
        yield from bps.mv(motor, best)
        return best

    return (yield from run())


def two_runs_interleaved(
    first: Readable, second: Readable, num: int = 3, *, md: dict[str, Any] | None = None
) -> MsgGenerator[None]:
    """Keep two runs open at once and take their events in turn.

    Parameters
    ----------
    first : Readable
        Detector of the first run.
    second : Readable
        Detector of the second run.
    num : int
        Number of events in each run.
    md : dict
        Metadata of both runs.
    """
    detectors = {"first": first, "second": second}

    @bpp.stage_decorator(list(detectors.values()))
    def runs() -> MsgGenerator[None]:
        for key, detector in detectors.items():
            metadata = {
                "plan_name": "two_runs_interleaved",
                "detectors": [detector.name],
                "num_points": num,
                **(md or {}),
            }
            yield from bpp.set_run_key_wrapper(bps.open_run(metadata), key)
        for _ in range(num):
            for key, detector in detectors.items():
                yield from bpp.set_run_key_wrapper(bps.trigger_and_read([detector]), key)
        for key in detectors:
            yield from bpp.set_run_key_wrapper(bps.close_run(), key)

    yield from runs()


def failing_scan(
    detectors: Sequence[Readable] = (), num: int = 2, *, md: dict[str, Any] | None = None
) -> MsgGenerator[None]:
    """Take some events, then fail, so that the run ends with exit status "fail": ``RE(failing_scan([det]))``.

    Parameters
    ----------
    detectors : list
        Detectors to read, one at least.
    num : int
        Number of events before the failure.
    md : dict
        Metadata.

    Raises
    ------
    TypeError
        If there is no list of detectors; before anything is done.
    RuntimeError
        Always, after the last event.
    """
    if not isinstance(detectors, Sequence) or not detectors:
        raise TypeError("failing_scan needs a list of detectors: RE(failing_scan([det]))")

    @bpp.stage_decorator(list(detectors))
    @bpp.run_decorator(
        md={"plan_name": "failing_scan", "detectors": [detector.name for detector in detectors], **(md or {})}
    )
    def run() -> MsgGenerator[None]:
        for _ in range(num):
            yield from bps.trigger_and_read(list(detectors))
        raise RuntimeError("This plan fails on purpose.")

    yield from run()


def close_in_on_peak(
    detector: Readable,
    motor: NamedMovable,
    start: float,
    stop: float,
    num: int = 21,
    *,
    tolerance: float = 0.05,
    most_scans: int = 6,
    timeout_s: float = 120.0,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[float]:
    """Scan, let a flow find the peak, scan again around it, until its width no longer changes; then go there.

    The flow is ``find-peak`` of the local stack; each run asks for it in its metadata.

    Parameters
    ----------
    detector : Readable
        Detector; its first hinted field is looked at.
    motor : NamedMovable
        Motor to scan.
    start : float
        First position of the first scan.
    stop : float
        Last position of the first scan.
    num : int
        Number of positions of each scan.
    tolerance : float
        The width may change by this part of it from one scan to the next.
    most_scans : int
        How many scans at most.
    timeout_s : float
        How long to wait for each flow, in seconds.
    md : dict
        Metadata.

    Returns
    -------
    float
        The middle of the peak, where the motor is left.

    Raises
    ------
    RuntimeError
        If a scan shows no peak, or the width still changes in the end.
    """
    last_width = width = 0.0
    for _ in range(most_scans):
        uid = yield from bp.scan([detector], motor, start, stop, num, md={**(md or {}), "find_peak": True})
        result = yield from wait_for_flow(uid, workflow="find-peak/local", timeout_s=timeout_s)
        peak = result.found("peak")
        if peak is None or not peak["found"]:
            raise RuntimeError(f"{result.message}. {'; '.join(result.problems)}".strip())
        center, last_width, width = peak["center"], width, peak["fwhm"]
        if abs(width - last_width) <= tolerance * width:
            yield from bps.mv(motor, center)
            return center
        # Twice the width to either side: the peak, and where there is none of it left.
        start, stop = center - 2 * width, center + 2 * width
    raise RuntimeError(f"After {most_scans} scans the width of the peak still changes: {last_width:g}, {width:g}.")
