"""Documents are written as JSON, whatever they hold."""

import datetime
import enum
import itertools
import json
from collections import OrderedDict

import numpy as np
import pytest

from bluesky_prefect.documents import (
    MAX_ARRAY_SIZE,
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_VALUES,
    from_json,
    jsonable,
    to_json,
    uid_text,
)


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


def test_a_cycle_ends_in_a_text_that_says_so():
    document: dict = {"name": "loop"}
    document["again"] = [document, document]
    end = "<dict left out: it contains itself>"
    assert from_json(to_json(document)) == {"name": "loop", "again": [end, end]}


def test_nesting_beyond_the_limit_ends_in_a_text_that_says_so():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert f"<list left out: it is nested deeper than {MAX_DEPTH} levels>" in to_json(nested).decode()


@pytest.mark.parametrize("levels", [MAX_DEPTH // 2, 2 * MAX_DEPTH])
@pytest.mark.parametrize("kind", [list, tuple, OrderedDict])
def test_objects_that_unfold_to_billions_of_values_stop_early(kind, levels):
    laughs = kind()
    for _ in range(levels):
        laughs = OrderedDict.fromkeys("abcdefghij", laughs) if kind is OrderedDict else kind([laughs] * 10)
    assert len(to_json(laughs)) < 100 * MAX_VALUES


def test_objects_that_all_refer_to_one_another_stop_early():
    crowd: list[dict] = [{} for _ in range(30)]
    for member in crowd:
        member.update((str(number), other) for number, other in enumerate(crowd))
    assert len(to_json(crowd)) < 100 * MAX_VALUES


class Endless(list):
    def __iter__(self):
        return itertools.repeat(1)


class EndlessSet(set):
    def __iter__(self):
        return itertools.count()


class EndlessMapping(dict):
    def items(self):
        return ((str(number), number) for number in itertools.count())


@pytest.mark.parametrize(
    "value", [list(range(10**6)), Endless(), EndlessSet(), EndlessMapping()], ids=lambda value: type(value).__name__
)
def test_what_has_no_end_gets_one(value):
    text = to_json(value)
    assert len(text) < 100 * MAX_VALUES


def test_a_text_that_is_referred_to_a_million_times_is_not_written_a_million_times():
    text = "x" * (MAX_CHARACTERS // 10)
    values = jsonable([text] * 1000)
    assert values[:10] == [text] * 10
    assert values[10:] == [f"<str left out: the document has more than {MAX_CHARACTERS} characters>"]
    assert len(to_json([{text: 1}] * 1000)) < 2 * MAX_CHARACTERS


def test_a_large_array_is_abbreviated():
    assert "..." in jsonable(np.zeros((MAX_ARRAY_SIZE, 2)))


def test_an_empty_array_of_a_billion_rows_is_abbreviated():
    assert "10000000000, 0" in jsonable(np.empty((10**10, 0)))
    assert jsonable(np.empty((2, 0))) == [[], []]


def test_an_object_whose_methods_raise_is_replaced_by_its_repr():
    assert jsonable({"x": BrokenMapping(a=1)}) == {"x": "{'a': 1}"}


def test_the_copy_shares_nothing_with_the_original():
    original = {"sample": {"name": "before"}}
    copy = jsonable(original)
    original["sample"]["name"] = "after"
    assert copy == {"sample": {"name": "before"}}


class Flag(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name either")


class Text(str):
    __slots__ = ()

    def __contains__(self, other):
        raise RuntimeError("no answer")


class Contrary(metaclass=Flag):
    """Answers nothing, and claims to be a string."""

    @property
    def __class__(self):
        raise MemoryError("no class")

    def __getattr__(self, name):
        raise RecursionError(name)

    def __repr__(self):
        return Text("\ud800" * 20_000)


class Mute(Contrary):
    def __repr__(self):
        raise MemoryError("no repr")


def test_an_object_that_answers_nothing_is_replaced_by_what_can_be_had_of_it():
    assert jsonable([Contrary()])[0].startswith(r"\ud800\ud800")
    assert jsonable([Mute()]) == ["<Mute without a repr>"]


@pytest.mark.parametrize(
    "uid",
    ["0123abcd-0000-0000-0000-000000000000", "short", "Grüße 漢字", "x" * 200],
)
def test_a_uid_that_can_be_printed_stays_what_it_is(uid):
    assert uid_text(uid) == uid


@pytest.mark.parametrize(
    "uid", ["x\nERROR forged", "\x1b[2J", "\u202egnp.exe", "\ud800", "\x00" * 300, None, 2**70, ["a"], b"\n"]
)
def test_any_uid_becomes_one_short_printable_line(uid):
    text = uid_text(uid)
    assert text.isprintable()
    assert len(text.encode()) < 2700


def test_long_uids_are_told_apart():
    assert uid_text("x" * 10_000 + "1") != uid_text("x" * 10_000 + "2")


def test_what_is_kept_of_a_document_that_is_too_long_keeps_its_names():
    kept = jsonable({"before": 1, "many": list(range(MAX_VALUES)), "after": 2})
    assert list(kept) == ["before", "many"]
    assert kept["many"][-1] == f"<int left out: the document has more than {MAX_VALUES} values>"
