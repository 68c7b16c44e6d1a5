"""A simulated beamline: motors, point detectors and an area detector."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ophyd.sim import SynAxis, SynGauss

from bluesky_prefect.sim._image import ImageDetector

_SHAPE = (64, 64)


@dataclass(frozen=True)
class SimulatedDevices:
    """The devices of the simulated beamline; each is named as its attribute."""

    motor: SynAxis
    motor1: SynAxis
    motor2: SynAxis
    det: SynGauss
    det1: SynGauss
    det2: SynGauss
    noisy_det: SynGauss
    image_det: ImageDetector


def make_devices(image_directory: Path) -> SimulatedDevices:
    """Return new simulated devices.

    Each detector sees a peak of its motor: ``det`` and ``noisy_det`` of ``motor``, ``det1`` of ``motor1``,
    ``det2`` of ``motor2``; ``image_det`` sees a spot that ``motor1`` and ``motor2`` move over its frame.

    Parameters
    ----------
    image_directory : pathlib.Path
        Directory that ``image_det`` writes its files to. A Tiled server that shall show the frames needs to
        be allowed to read it.
    """
    motor, motor1, motor2 = (_axis(name) for name in ("motor", "motor1", "motor2"))
    return SimulatedDevices(
        motor=motor,
        motor1=motor1,
        motor2=motor2,
        det=_peak("det", motor, center=0, height=1),
        det1=_peak("det1", motor1, center=0, height=5, sigma=0.5),
        det2=_peak("det2", motor2, center=1, height=2, sigma=2),
        noisy_det=_peak("noisy_det", motor, center=0, height=1, noise="uniform", noise_multiplier=0.1),
        image_det=ImageDetector(
            name="image_det",
            directory=image_directory,
            frame=lambda: _spot(motor1.position, motor2.position),
            shape=_SHAPE,
            labels={"detectors"},
        ),
    )


def _axis(name: str) -> SynAxis:
    return SynAxis(name=name, labels={"motors"})


def _peak(name: str, motor: SynAxis, *, center: float, height: float, sigma: float = 1, **noise: object) -> SynGauss:
    return SynGauss(name, motor, motor.name, center=center, Imax=height, sigma=sigma, labels={"detectors"}, **noise)


def _spot(x_mm: float, y_mm: float) -> np.ndarray:
    """Return a frame with a round spot, uint16 [counts]; 1 mm moves it by 6 pixels from the middle."""
    rows, columns = np.indices(_SHAPE)
    distance_squared = (columns - _SHAPE[1] / 2 - 6 * x_mm) ** 2 + (rows - _SHAPE[0] / 2 - 6 * y_mm) ** 2
    return np.random.default_rng().poisson(10 + 1000 * np.exp(-distance_squared / 50))
