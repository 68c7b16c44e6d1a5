"""What '%flows' takes, and that the package is an IPython extension."""

import pytest
from IPython.core.error import UsageError

import bluesky_prefect
from bluesky_prefect.cli._ipython_magics import MOST, count_and_scan


@pytest.mark.parametrize(
    ("number", "count", "scan", "meant"),
    [
        (None, None, None, (10, None)),
        (50, None, None, (50, None)),
        (200, None, None, (200, None)),
        (201, None, None, (MOST, 201)),
        (1234, None, None, (MOST, 1234)),
        (None, 50, None, (50, None)),
        (None, None, 50, (MOST, 50)),
        (None, 5, 1234, (5, 1234)),
    ],
)
def test_small_numbers_are_counts_and_large_ones_scan_ids(number, count, scan, meant):
    assert count_and_scan(number, count, scan) == meant


@pytest.mark.parametrize(
    ("number", "count", "scan"),
    [(50, 50, None), (1234, None, 1234), (0, None, None), (None, 201, None), (-3, None, None)],
)
def test_what_is_not_clear_is_refused_with_a_line(number, count, scan):
    with pytest.raises(UsageError):
        count_and_scan(number, count, scan)


def test_the_package_is_an_extension():
    assert callable(bluesky_prefect.load_ipython_extension)
    assert callable(bluesky_prefect.unload_ipython_extension)
