"""Position and width of a peak, from the points of a scan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FEWEST_POINTS = 3


@dataclass(frozen=True)
class Peak:
    """A peak over a motor's positions, in the motor's and the detector's units.

    Attributes
    ----------
    center : float
        Middle between the two places where the peak is half as high.
    center_of_mass : float
        Centre of mass of all points above the lowest, each for the stretch that it stands for.
    fwhm : float
        Distance between the two places where the peak is half as high.
    height : float
        Highest above lowest reading.
    position_of_maximum : float
        Where the highest reading was.
    """

    center: float
    center_of_mass: float
    fwhm: float
    height: float
    position_of_maximum: float


def find(positions: Sequence[float], readings: Sequence[float]) -> Peak | str:
    """Return the peak that readings show over positions, in any order, or why they show none.

    Both have the shape (n,), in the units of the motor and of the detector; points that are not finite are left out.
    """
    x, y = np.asarray(positions, float), np.asarray(readings, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if len(np.unique(x)) < _FEWEST_POINTS:
        return f"only {len(np.unique(x))} different positions"
    y = y - y.min()
    height, top = float(y.max()), int(y.argmax())
    if height == 0.0:
        return "all readings are the same"
    left, right = _crossing(x, y, top, -1), _crossing(x, y, top, +1)
    if left is None or right is None:
        side = "below" if left is None else "above"
        return f"the readings do not fall to half the peak {side} {x[top]:g}: the scan ends too early there"
    return Peak(
        center=(left + right) / 2,
        center_of_mass=_center_of_mass(x, y),
        fwhm=right - left,
        height=height,
        position_of_maximum=float(x[top]),
    )


def _crossing(x: np.ndarray, y: np.ndarray, top: int, step: int) -> float | None:
    """Return where, from the top on, the line between two points falls to half the height."""
    half = y[top] / 2
    here = top
    while 0 <= here + step < len(x):
        there = here + step
        if y[there] <= half:
            return float(x[here] + (x[there] - x[here]) * (y[here] - half) / (y[here] - y[there]))
        here = there
    return None


def _center_of_mass(x: np.ndarray, y: np.ndarray) -> float:
    # Points need not be evenly spaced: each stands for half the way to its neighbours.
    weights = y * np.gradient(x) if len(np.unique(x)) == len(x) else y
    return float(np.sum(x * weights) / np.sum(weights))
