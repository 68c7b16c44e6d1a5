"""Documents are written as JSON, whatever they hold."""

import datetime
import enum
import json

import numpy as np
import pytest

from bluesky_prefect.documents import MAX_ARRAY_SIZE, MAX_DEPTH, from_json, jsonable, to_json


class Colour(enum.IntEnum):
    RED = 1


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class BrokenMapping(dict):
    def items(self):
        raise OSError("gone")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (np.bool_(True), True),
        (np.int32(7), 7),
        (np.uint64(2**63), repr(2**63)),
        (2**70, str(2**70)),
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (float("nan"), "nan"),
        (np.float64("inf"), "inf"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan]), [1.0, "nan"]),
        (np.array(3), 3),
        (np.str_("text"), "text"),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (b"\x00\xff", "b'\\\\x00\\\\xff'".replace("\\\\", "\\")),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Colour.RED, 1),
        ({1: "a", None: "b", (2, 3): "c"}, {"1": "a", "None": "b", "[2, 3]": "c"}),
        ("a\x00b", "a\\x00b"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ("Grüße 漢字", "Grüße 漢字"),
        (Broken(), "<Broken without a repr>"),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_every_value_has_a_json_form(value, expected):
    assert jsonable(value) == expected
    assert from_json(to_json(value)) == expected


def test_what_is_written_is_strict_json():
    text = to_json({"a": float("nan"), "b": [float("-inf")], "c": "\ud800"})
    json.loads(text, parse_constant=pytest.fail)


def test_a_cycle_ends_in_a_repr():
    document: dict = {"name": "loop"}
    document["again"] = [document, document]
    assert from_json(to_json(document))["again"][0].startswith("{'name': 'loop'")


def test_nesting_beyond_the_limit_ends_in_a_repr():
    nested: list = []
    for _ in range(10 * MAX_DEPTH):
        nested = [nested]
    assert to_json(nested)


def test_objects_that_unfold_to_billions_of_values_stop_early():
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs] * 10
    assert len(to_json(laughs)) < 50_000_000


def test_a_large_array_is_abbreviated():
    assert "..." in jsonable(np.zeros((MAX_ARRAY_SIZE, 2)))


def test_an_object_whose_methods_raise_is_replaced_by_its_repr():
    assert jsonable({"x": BrokenMapping(a=1)}) == {"x": "{'a': 1}"}


def test_the_copy_shares_nothing_with_the_original():
    original = {"sample": {"name": "before"}}
    copy = jsonable(original)
    original["sample"]["name"] = "after"
    assert copy == {"sample": {"name": "before"}}
