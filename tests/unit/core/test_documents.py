"""Documents are written as JSON, whatever they hold."""

import array
import datetime
import enum
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from collections import OrderedDict

import numpy as np
import orjson
import pytest

from bluesky_prefect.core import jsonable, uid_text
from bluesky_prefect.core._conversion import MAX_ARRAY_SIZE, MAX_DEPTH, MAX_REPR_LENGTH, Conversion
from bluesky_prefect.core._documents import MAX_CHARACTERS, MAX_VALUES


class Colour(enum.IntEnum):
    RED = 1


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class BrokenMapping(dict):
    def items(self):
        raise OSError("gone")


def to_json(value):
    return orjson.dumps(jsonable(value))


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
    assert orjson.loads(to_json(value)) == expected


def test_what_is_written_is_strict_json():
    text = to_json({"a": float("nan"), "b": [float("-inf")], "c": "\ud800"})
    json.loads(text, parse_constant=pytest.fail)


def test_a_cycle_ends_in_a_text_that_says_so():
    document: dict = {"name": "loop"}
    document["again"] = [document, document]
    end = "<dict left out: it contains itself>"
    assert orjson.loads(to_json(document)) == {"name": "loop", "again": [end, end]}


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


def test_a_text_referred_to_a_million_times_is_not_written_so_often():
    text = "x" * (MAX_CHARACTERS // 10)
    values = jsonable([text] * 1000)
    assert values[:10] == [text] * 10
    assert values[10:] == [f"<str left out: the document has more than {MAX_CHARACTERS} characters>"]
    assert len(to_json([{text: 1}] * 1000)) < 2 * MAX_CHARACTERS


def test_a_large_array_is_abbreviated():
    assert "float64, shape [10000, 2]" in jsonable(np.zeros((MAX_ARRAY_SIZE, 2)))


def test_an_empty_array_of_a_billion_rows_is_abbreviated():
    assert "10000000000, 0" in jsonable(np.empty((10**10, 0)))
    assert jsonable(np.empty((2, 0))) == [[], []]


def test_a_container_whose_methods_raise_is_read_past_them():
    assert jsonable({"x": BrokenMapping(a=1)}) == {"x": {"a": 1}}


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


def nested_sets(levels):
    members = frozenset()
    for _ in range(levels):
        # Two ways to each one below it: the repr doubles with each level.
        members = frozenset({members, frozenset({members})})
    return members


@pytest.mark.parametrize("levels", [20, 200])
def test_sets_of_sets_cost_no_more_than_the_values_that_are_kept(levels):
    conversion = Conversion(MAX_VALUES, MAX_CHARACTERS)
    converted = conversion.convert(nested_sets(levels))
    assert MAX_VALUES - conversion.values_left <= MAX_VALUES + 1
    assert len(orjson.dumps(converted)) < 100 * MAX_VALUES


class BrokenSet(frozenset):
    def __iter__(self):
        raise OSError("gone")


@pytest.mark.parametrize(
    "kind", [BrokenSet, lambda members: {1: members}.values(), lambda members: {members: 1}.keys()]
)
def test_no_container_is_written_as_its_repr(kind):
    # A repr of this one takes longer than a test may.
    assert len(orjson.dumps(jsonable(kind({nested_sets(40)} if kind is BrokenSet else nested_sets(40))))) < 10**7


def test_members_of_a_set_have_one_order_in_every_process():
    values = "{'b', 'a', frozenset({'x', 'y'}), 10, 9, None}"
    script = f"import json; from bluesky_prefect.core import jsonable; print(json.dumps(jsonable({values})))"
    environment = {**os.environ}
    written = {
        subprocess.check_output([sys.executable, "-c", script], env={**environment, "PYTHONHASHSEED": seed})
        for seed in ("1", "2", "3", "4")
    }
    assert written == {b'[9, 10, "a", "b", null, ["x", "y"]]\n'}


def hundred_megabytes_of(kind):
    if kind == "object array":
        return np.array([b"x" * 10**8] * (MAX_ARRAY_SIZE + 1), dtype=object)
    if kind == "array of texts":
        return np.array(["x" * (25 * 10**6)])
    return {
        "bytes": lambda: bytes(10**8),
        "bytearray": lambda: bytearray(10**8),
        "memoryview": lambda: memoryview(bytes(10**8)).cast("d"),
        "array": lambda: array.array("d", bytes(10**8)),
        "array of numpy": lambda: np.zeros(10**8, np.uint8),
        "void": lambda: np.void(bytes(10**8)),
        "text of a subclass": lambda: np.str_("x" * 10**8),
        "integer": lambda: 1 << (8 * 10**8),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "bytes", "bytearray", "memoryview", "array", "array of numpy", "void", "text of a subclass", "integer",
        "object array", "array of texts",
    ],
)  # fmt: skip
def test_a_hundred_megabytes_in_metadata_take_little_memory_on_the_way(kind):
    value = hundred_megabytes_of(kind)
    limit = 40 * 10**6 if kind in {"array", "text of a subclass"} else 2 * 10**6
    tracemalloc.start()
    try:
        text = to_json({"sample": value})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit
    assert len(text) < limit


def test_bytes_are_cut_where_their_repr_is():
    assert jsonable(b"x" * 20_000) == "b'" + "x" * (MAX_REPR_LENGTH - 2) + "..."
    assert jsonable(bytearray(b"\x00")) == r"bytearray(b'\x00')"


def test_an_integer_that_python_may_be_told_to_write_is_not_written():
    set_digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # somebody's session may have said so: writing takes the square of the digits
    try:
        assert jsonable(10**5000) == "<int left out: an integer of 16610 bits>"
    finally:
        sys.set_int_max_str_digits(set_digits)


def test_what_is_written_in_place_of_values_counts_too():
    text = to_json([bytes(10_000)] * MAX_VALUES)
    assert len(text) < 2 * MAX_CHARACTERS
