"""Plans beyond bluesky's own, each showing something a callback meets at a beamline."""

from collections.abc import Sequence
from typing import Any, cast

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import NamedMovable, Readable
from bluesky.utils import MsgGenerator


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
    detectors: Sequence[Readable], num: int = 2, *, md: dict[str, Any] | None = None
) -> MsgGenerator[None]:
    """Take some events, then fail, so that the run ends with exit status "fail".

    Parameters
    ----------
    detectors : list
        Detectors to read.
    num : int
        Number of events before the failure.
    md : dict
        Metadata.

    Raises
    ------
    RuntimeError
        Always.
    """

    @bpp.stage_decorator(list(detectors))
    @bpp.run_decorator(
        md={"plan_name": "failing_scan", "detectors": [detector.name for detector in detectors], **(md or {})}
    )
    def run() -> MsgGenerator[None]:
        for _ in range(num):
            yield from bps.trigger_and_read(list(detectors))
        raise RuntimeError("This plan fails on purpose.")

    yield from run()
