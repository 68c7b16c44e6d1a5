"""Runs of every kind, done by a real RunEngine and written to Tiled by TiledWriter."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
from bluesky import RunEngine
from bluesky.utils import RequestAbort, RunEngineInterrupted
from bluesky_tiled_plugins import TiledWriter
from ophyd import Signal
from ophyd.sim import SynSignal, hw

HOSTILE = {
    "plan_name": "../../etc/x",
    "array": np.arange(3),
    "nan": float("nan"),
    "bytes": b"\x00\xff",
    "set": {1},
    "big": "y" * 1_000_000,
    "=cmd|A0": "@SUM(1)\nexit status:  forged",
}


class WaveSignal(Signal):
    """A signal that says of its arrays what event-model asks for."""

    def describe(self) -> dict[str, Any]:
        value = np.asarray(self.get())
        key = {"source": "test", "dtype": "array", "shape": list(value.shape), "dtype_numpy": value.dtype.str}
        return {self.name: key}


class Beamline:
    """A RunEngine with simulated devices that writes to Tiled.

    Parameters
    ----------
    raw : tiled.client.container.Container
        The catalog of runs.
    images : Path
        Directory that image files go to; Tiled must be allowed to read it.
    """

    def __init__(self, raw: Any, images: Path) -> None:
        self.devices = hw(save_path=str(images))
        self.engine = RunEngine(context_managers=[])
        self.engine.subscribe(TiledWriter(raw))

    def run(self, plan: Any, **metadata: Any) -> tuple[str, ...]:
        """Do a plan, which may fail, and return the uids of its runs."""
        uids: list[str] = []
        token = self.engine.subscribe(lambda name, document: uids.append(document["uid"]), "start")
        with contextlib.suppress(RuntimeError, RunEngineInterrupted, RequestAbort):
            self.engine(plan, **metadata)
        self.engine.unsubscribe(token)
        return tuple(uids)

    def all_kinds(self) -> dict[str, str]:
        """Do a run of every kind and return their uids by kind."""
        devices = self.devices
        uids: dict[str, str] = {}

        def do(kind: str, plan: Any, **metadata: Any) -> None:
            [uids[kind]] = self.run(plan, **metadata)

        do("count", bp.count([devices.det], 3), purpose="calibration")
        do("scan", bp.scan([devices.det, devices.noisy_det], devices.motor, -1, 1, 11))
        do("grid", bp.grid_scan([devices.det4], devices.motor1, -1, 1, 3, devices.motor2, -1, 1, 4))
        do("baseline", bpp.baseline_wrapper(bp.count([devices.det], 2), [devices.motor1, devices.motor2]))
        do("images", bp.count([devices.img, devices.det], 2))
        do("arrays", bp.count(_array_signals(), 2))
        do("text", bp.count([SynSignal(name="text", func=lambda: '=1+1, "x"\r\ny'), devices.det], 2))
        do("hostile", bp.count([devices.det], 1), **HOSTILE)
        do("nothing", _no_events())
        do("failed", _fails_after(devices.det, RuntimeError("boom\nexit status:  success")))
        do("aborted", _fails_after(devices.det, RequestAbort()))
        uids["outer"], uids["inner"] = self.run(_interleaved(devices.det, devices.motor))
        return uids


def _array_signals() -> list[Signal]:
    return [
        WaveSignal(name="wave", value=np.array([0.1, 0.2, 0.1 + 0.2])),
        WaveSignal(name="long_wave", value=np.linspace(0, 1, 100)),
        WaveSignal(name="too_long", value=np.zeros(5000)),
        WaveSignal(name="frame", value=np.arange(60.0).reshape(6, 10)),
        Signal(name="count", value=2**60 + 1),
        Signal(name="hole", value=float("nan")),
    ]


@bpp.run_decorator(md={"plan_name": "nothing"})
def _no_events() -> Iterator[Any]:
    yield from bps.null()


def _fails_after(detector: Any, error: BaseException) -> Iterator[Any]:
    @bpp.run_decorator(md={"plan_name": "fails"})
    def plan() -> Iterator[Any]:
        yield from bps.trigger_and_read([detector])
        raise error

    return plan()


def _interleaved(detector: Any, motor: Any) -> Iterator[Any]:
    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"plan_name": "inner"})
    def inner(between: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        yield from bps.trigger_and_read([detector])
        yield from between()
        yield from bps.trigger_and_read([detector])

    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={"plan_name": "outer"})
    def outer() -> Iterator[Any]:
        yield from bps.trigger_and_read([detector, motor])
        yield from inner(lambda: bpp.set_run_key_wrapper(bps.trigger_and_read([detector, motor]), "outer"))
        yield from bps.trigger_and_read([detector, motor])

    return outer()
