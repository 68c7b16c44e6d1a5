"""Moments as people write them."""

import time

import pytest

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.reconciliation import parse_moment
from bluesky_prefect.reconciliation._time_window import moment

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [("90s", 90), ("90m", 5400), ("24h", 86400), ("1.5 d", 129600), ("2w", 1209600), (" 7d ", 604800)],
)
def test_how_long_ago(text, ago_s):
    assert parse_moment(text, NOW) == NOW - ago_s


def test_a_date_is_its_local_midnight():
    assert parse_moment("2026-01-31", NOW) == time.mktime((2026, 1, 31, 0, 0, 0, 0, 0, -1))


def test_a_time_with_a_zone_is_that_of_the_zone():
    assert parse_moment("2026-01-31T14:00:00+02:00", NOW) == parse_moment("2026-01-31T12:00:00+00:00", NOW)


@pytest.mark.parametrize("text", ["", "yesterday", "24", "h", "-3h", "2026-13-01"])
def test_anything_else_is_refused_with_examples(text):
    with pytest.raises(ConfigurationError, match="24h"):
        parse_moment(text, NOW)


def test_a_moment_is_shown_as_it_can_be_written():
    assert abs(parse_moment(moment(NOW), NOW) - NOW) < 60


@pytest.mark.parametrize("time_s", [1.7e12, float("-inf"), float("nan")])
def test_a_time_that_cannot_be_is_told_as_such(time_s):
    assert moment(time_s) == "an impossible time"
