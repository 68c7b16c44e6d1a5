"""A stream that is not what its documents promise is told, and one that is passes."""

import math

import pyarrow
import pytest

from bluesky_prefect.flows.validation._checks import missing_streams, stream_checks
from bluesky_prefect.tiled_api import ExternalArray, RunData, Stream

MOVED = {"hints": {"dimensions": [[["motor"], "primary"]]}, "motors": ["motor"]}


def checked(columns, promised, start=None, arrays=(), data_keys=None):
    metadata = {"hints": {"det": {"fields": ["det"]}}, "data_keys": data_keys or {}}
    stream = Stream("primary", metadata, pyarrow.table(columns), list(arrays))
    stop = {} if promised is None else {"num_events": {"primary": promised}}
    run = RunData({"uid": "u", **(start or {})}, stop, [stream], "raw/u")
    return [(check.what, check.result) for check in stream_checks(run, stream) if check.result != "passed"]


def table(seq_num=(1, 2, 3), time=(1.0, 2.0, 3.0), **columns):
    return {"seq_num": list(seq_num), "time": list(time), **columns}


@pytest.mark.parametrize(
    ("columns", "promised", "told"),
    [
        (table(), 3, []),
        (table([], []), 0, []),
        (table(time=[2.0, 2.0, 2.0]), 3, []),
        (table(), 4, [("points", "broken")]),
        (table(), 2, [("points", "broken")]),
        (table(), None, [("points", "warning")]),
        (table([1, 3], [1.0, 3.0]), 2, [("sequence numbers", "broken")]),
        (table([1, 3], [1.0, 3.0]), 3, [("points", "broken"), ("sequence numbers", "broken")]),
        (table([2, 3], [2.0, 3.0]), 2, [("sequence numbers", "broken")]),
        (table([2, 1, 3]), 3, [("sequence numbers", "broken")]),
        (table([1, 2, 2]), 2, [("sequence numbers", "warning")]),
        (table([1, None, 2]), 3, [("sequence numbers", "broken")]),
        (table(time=[1.0, math.nan, 3.0]), 3, [("times", "broken")]),
        (table(time=[1.0, None, 3.0]), 3, [("times", "broken")]),
        (table(time=[1.0, 3.0, 2.0]), 3, [("times", "broken")]),
    ],
)
def test_points_sequence_and_times(columns, promised, told):
    assert checked(columns, promised) == told


@pytest.mark.parametrize(
    ("columns", "start", "told"),
    [
        (table(det=[1.0] * 3), {}, []),  # nothing moved
        (table(det=[1.0, 2.0, 1.0], motor=[1, 2, 3], other=[1] * 3), MOVED, []),
        (table(det=[1.0] * 3, motor=[1, 2, 3]), MOVED, [("det: values", "warning")]),
        (table(det=[1.0, 2.0, 1.0], motor=[1] * 3), MOVED, [("motor: values", "warning")]),
        (table(det=[math.nan] * 3, motor=[1, 2, 3]), {}, [("det: values", "warning")]),
        (table(text=["a", "a", "a"], motor=[1, 2, 3]), MOVED, []),
    ],
)
def test_columns_that_hold_nothing_or_do_not_change_are_warned_of(columns, start, told):
    assert checked(columns, 3, start) == told


@pytest.mark.parametrize(
    ("shape", "each", "told"),
    [
        ((3, 4, 5), [4, 5], []),
        ((6, 4, 5), [2, 4, 5], []),
        ((2, 4, 5), [4, 5], [("img: shape", "broken")]),
        ((3, 4, 4), [4, 5], [("img: shape", "broken")]),
        ((2, 4, 5), [None, 5], []),
    ],
)
def test_an_array_has_the_shape_that_its_descriptor_promised(shape, each, told):
    array = ExternalArray("img", "raw/u/primary/img", shape, "float64", [])
    assert checked(table(), 3, arrays=[array], data_keys={"img": {"shape": each}}) == told


def test_a_stream_that_had_events_and_is_not_there_is_broken():
    run = RunData({"uid": "u"}, {"num_events": {"primary": 2, "baseline": 0}}, [], "raw/u")
    assert [check.told for check in missing_streams(run)] == ["primary, points: none of 2 points is there"]
