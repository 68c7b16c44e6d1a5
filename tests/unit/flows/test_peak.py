"""Where a peak is, from the points of a scan."""

import math

import numpy as np
import pytest

from bluesky_prefect.flows._peak import Peak, find

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian of width 1


def gauss(x, center=1.0, sigma=2.0, height=5.0, background=10.0):
    return background + height * np.exp(-((np.asarray(x) - center) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_peak_is_found_where_it_is_whichever_way_the_motor_went(order):
    x = np.linspace(-9, 11, 41)[order]
    peak = find(x, gauss(x))
    assert peak.center == pytest.approx(1.0, abs=0.01)
    assert peak.center_of_mass == pytest.approx(1.0, abs=0.01)
    assert peak.fwhm == pytest.approx(2 * FWHM, rel=0.02)
    assert peak.height == pytest.approx(5.0, rel=0.01)
    assert peak.position_of_maximum == 1.0


def test_points_need_not_be_evenly_spaced():
    x = np.concatenate([np.linspace(-9, 0, 10), np.linspace(0.1, 11, 60)])
    peak = find(x, gauss(x))
    assert peak.center == pytest.approx(1.0, abs=0.05)
    assert peak.center_of_mass == pytest.approx(1.0, abs=0.05)


def test_a_triangle_is_exact():
    assert find([0, 1, 2, 3, 4], [0, 1, 2, 1, 0]) == Peak(
        center=2.0, center_of_mass=2.0, fwhm=2.0, height=2.0, position_of_maximum=2.0
    )


def test_points_that_are_no_numbers_are_left_out():
    x = np.linspace(-9, 11, 41)
    y = gauss(x)
    y[[3, 20]] = np.nan
    y[5] = np.inf
    assert find(x, y).center == pytest.approx(1.0, abs=0.05)


def test_repeated_positions_do_no_harm():
    assert find([0, 1, 1, 2, 2, 3, 4], [0, 1, 1, 2, 2, 1, 0]).center == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([], [], "only 0 different"),
        ([1, 1, 1, 2], [1, 2, 3, 4], "only 2 different"),
        ([1, 2, 3], [math.nan] * 3, "only 0 different"),
        ([1, 2, 3], [7, 7, 7], "the same"),
        ([1, 2, 3, 4], [0, 1, 2, 3], "above 4"),
        ([1, 2, 3, 4], [3, 2, 1, 0], "below 1"),
    ],
)
def test_that_there_is_no_peak_is_said_with_the_reason(x, y, why):
    assert why in find(x, y)
