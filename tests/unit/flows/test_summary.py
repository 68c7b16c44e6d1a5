"""The summary says what a run was, and nothing that metadata wants it to say."""

import json
from zoneinfo import ZoneInfo

import pyarrow
import pytest

from bluesky_prefect.flows.export_parts._summary import local_time, summary
from bluesky_prefect.tiled_api import ExternalArray, RunData, Stream

ZONE = ZoneInfo("America/New_York")
START = {
    "uid": "0123abcd-0000-0000-0000-000000000000",
    "time": 1777651200.25,
    "scan_id": 5,
    "plan_name": "scan",
    "detectors": ["det", "img"],
    "motors": ["motor"],
    "plan_args": {"num": 3},
    "hints": {},
    "versions": {},
}
STOP = {"time": 1777651260.5, "exit_status": "success", "reason": ""}


def text(start=(), stop=(), streams=(), weather="sunny"):
    run = RunData({**START, **dict(start)}, {**STOP, **dict(stop)}, list(streams), "raw/0123abcd")
    return summary(run, weather, ZONE, ["scan_5_scan_primary.csv"])


def test_it_says_what_the_issue_asks_for():
    stream = Stream(
        "primary",
        {},
        pyarrow.table({"seq_num": [1, 2, 3]}),
        [
            ExternalArray(
                "img", "raw/0123abcd/primary/img", (3, 8, 8), "uint16", ["file://host/a.h5", "file://host/b.h5"]
            )
        ],
    )
    lines = text({"sample": "Si", "nested": {"a": [1, 2]}}, streams=[stream]).splitlines()
    for expected in (
        "run uid:      0123abcd-0000-0000-0000-000000000000",
        "scan id:      5",
        "plan:         scan",
        "start time:   2026-05-01 12:00:00.250-04:00",
        "stop time:    2026-05-01 12:01:00.500-04:00",
        "exit status:  success",
        "detectors:    det, img",
        "motors:       motor",
        "points:       primary: 3",
        "sample:  Si",
        'nested:  {"a": [1, 2]}',
        "num:  3",
        "primary/img:  raw/0123abcd/primary/img, shape (3, 8, 8), uint16, in file://host/a.h5 and 1 more",
        "sunny",
        "scan_5_scan_primary.csv",
    ):
        assert expected in lines


def test_a_failed_run_says_why_on_one_line():
    lines = text(stop={"exit_status": "fail", "reason": "boom\nexit status:  success"}).splitlines()
    assert "exit status:  fail" in lines
    assert "exit status:  success" not in lines
    assert r"reason:       boom\nexit status:  success" in lines


FORGED = "x\nrun uid:      forged\r\nrun uid:      forged\u2028run uid:      forged\x0brun uid:      forged"


@pytest.mark.parametrize(
    "start",
    [
        {"plan_name": FORGED},
        {"scan_id": FORGED},
        {"sample": FORGED},
        {FORGED: "x"},
        {"detectors": [FORGED]},
        {"detectors": FORGED},
        {"motors": {FORGED: FORGED}},
        {"plan_args": FORGED},
        {"plan_args": {FORGED: [FORGED]}},
        {"time": FORGED},
        {"nested": {"a": [FORGED]}},
    ],
)
def test_metadata_cannot_forge_a_line(start):
    written = text(start)
    assert "run uid:      forged" not in [line.strip() for line in written.splitlines()]
    assert "\u2028" not in written


def test_a_megabyte_of_metadata_stays_readable():
    assert len(text({"big": "y" * 1_000_000, "deep": {"k": list(range(100_000))}})) < 5000


@pytest.mark.parametrize("time_s", [None, "now", float("nan"), 1e300, -1e300, True])
def test_a_time_that_is_none_reads_unknown(time_s):
    assert local_time(time_s, ZONE) == "unknown"


def test_json_that_reads_back():
    line = next(line for line in text({"m": {"a": 0.1}}).splitlines() if line.startswith("m:"))
    assert json.loads(line.partition(":")[2]) == {"a": 0.1}
