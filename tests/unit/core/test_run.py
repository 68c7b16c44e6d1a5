"""A run as its documents tell of it."""

import pytest

from bluesky_prefect.core import Run


@pytest.mark.parametrize(
    ("start", "stop", "time_s"),
    [
        ({"time": 1}, {"time": 2.5}, 2.5),
        ({"time": 1}, {}, 1.0),
        ({"time": 1}, {"time": "yesterday"}, 1.0),
        ({}, {"time": True}, float("-inf")),
    ],
)
def test_a_run_is_as_old_as_its_stop_or_else_its_start(start, stop, time_s):
    assert Run("uid", start, stop).time_s == time_s
