"""What reconciliation tells beside its findings."""

import time

import pytest

from bluesky_prefect.reconciliation._remarks import Remarks
from bluesky_prefect.reconciliation._time_window import moment

URL = "http://here:4200/api"


@pytest.mark.parametrize("off_s", [-3 * 86400.0, -360.0, 360.0, 3 * 86400.0])
def test_clocks_minutes_apart_are_reported_with_both_times_and_a_remedy(off_s):
    warned = []
    now = time.time()
    remarks = Remarks(warned.append, submit=False)
    remarks.on_clocks(now + off_s, now, URL)
    [remark] = warned
    assert remarks.told == warned
    assert all(part in remark for part in (URL, moment(now + off_s), moment(now), f"{abs(off_s) / 60:.0f} min", "NTP"))


@pytest.mark.parametrize("off_s", [-60.0, 0.0, 60.0])
def test_clocks_that_are_a_minute_apart_are_no_trouble(off_s):
    remarks = Remarks(pytest.fail, submit=False)
    remarks.on_clocks(1e9 + off_s, 1e9, URL)
    assert remarks.told == []
