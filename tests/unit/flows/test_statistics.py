"""Each column of a run in numbers, whatever it holds."""

import json
import math

import numpy as np
import pyarrow
import pytest

from bluesky_prefect.flows.export_parts._statistics import MAX_COLUMNS, column_statistics
from bluesky_prefect.tiled_api import ExternalArray, RunData, Stream

COLUMNS = {
    "plain": pyarrow.array([1.0, 2.0, 4.0]),
    "holes": pyarrow.array([1.0, math.nan, None]),
    "all_nan": pyarrow.array([math.nan] * 3),
    "nothing": pyarrow.array([None] * 3),
    "infinite": pyarrow.array([1.0, math.inf, -math.inf]),
    "large": pyarrow.array([2**60 + 1, 0, 0]),
    "unsigned": pyarrow.array([2**64 - 1, 0, 0], pyarrow.uint64()),
    "half": pyarrow.array(np.array([1, 2, 3], np.float16)),
    "flag": pyarrow.array([True, False, None]),
    "text": pyarrow.array(["|<b>", None, ""]),
    "list": pyarrow.array([[1, 2], [], None]),
}


def statistics(columns, arrays=()):
    stream = Stream("primary", {}, pyarrow.table(columns), list(arrays))
    rows = column_statistics(RunData({"uid": "u"}, {}, [stream], "raw/u"))
    json.dumps(rows, allow_nan=False)  # as the artifact is written
    return {row["column"]: row for row in rows}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("plain", (0, 1.0, 4.0, pytest.approx(7 / 3), pytest.approx(np.std([1, 2, 4])))),
        ("holes", (2, 1.0, 1.0, 1.0, 0.0)),
        ("all_nan", (3, None, None, None, None)),
        ("nothing", (None, None, None, None, None)),
        ("infinite", (0, "-inf", "inf", "nan", "nan")),
        ("large", (0, 0, 2**60 + 1, pytest.approx(2**60 / 3), pytest.approx(np.std([2**60, 0, 0])))),
        ("unsigned", (0, 0, 2**64 - 1, pytest.approx(2**64 / 3), pytest.approx(np.std([2.0**64, 0, 0])))),
        ("half", (0, 1.0, 3.0, 2.0, pytest.approx(np.std([1, 2, 3])))),
        ("flag", (1, 0, 1, 0.5, 0.5)),
        ("text", (None, None, None, None, None)),
        ("list", (None, None, None, None, None)),
    ],
)
def test_a_column_is_described_by_what_it_has(column, expected):
    row = statistics(COLUMNS)[column]
    assert row["points"] == 3
    assert tuple(row[key] for key in ("NaN", "min", "max", "mean", "std")) == expected


def test_streams_without_events_and_external_arrays_have_rows_too():
    rows = statistics({"empty": pyarrow.array([], pyarrow.float64())}, [ExternalArray("img", "p", (2, 4, 5), "u2", [])])
    assert (rows["empty"]["points"], rows["empty"]["NaN"], rows["empty"]["mean"]) == (0, 0, None)
    assert (rows["img"]["points"], rows["img"]["type"]) == (2, "u2 [2, 4, 5]")


def test_a_run_of_very_many_columns_has_a_table_that_a_page_can_show():
    assert len(statistics({f"c{number}": pyarrow.array([1]) for number in range(MAX_COLUMNS + 5)})) == MAX_COLUMNS
