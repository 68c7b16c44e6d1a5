"""Of a document that is too large, keys, numbers and short texts are kept, and the largest values give way."""

import itertools
import json
import logging
import tracemalloc

import numpy as np
import pytest

from bluesky_prefect.core import MORE_KEYS, Submission, convert_document, jsonable
from bluesky_prefect.core._documents import MAX_CHARACTERS, MAX_SECONDS, MAX_VALUES
from bluesky_prefect.core._selection import Selection

MASK = [[0] * 250 for _ in range(240)]
START = {"uid": "the-uid", "time": 1.5, "mask": MASK, "scan_id": 7, "plan_name": "count", "prefect": False}


def is_left_out(value):
    return isinstance(value, str) and "left out" in value


def count(value):
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


def test_a_large_value_costs_no_other_key():
    kept = jsonable(START)
    assert is_left_out(kept.pop("mask"))
    assert kept == {key: value for key, value in START.items() if key != "mask"}
    assert list(jsonable(START))[:3] == ["uid", "time", "scan_id"]


def test_numbers_of_numpy_and_short_texts_are_kept_before_lists():
    kept = jsonable({"mask": MASK, "energy": np.float64(8.3), "scan_id": np.int64(7), "title": "x" * 1000})
    assert kept == {"mask": kept["mask"], "energy": 8.3, "scan_id": 7, "title": "x" * 1000}


@pytest.mark.parametrize("names", list(itertools.permutations(["small", "middle", "large"])))
def test_the_largest_give_way_first_in_whichever_order_they_come(names):
    sizes = {"small": 10_000, "middle": 30_000, "large": 60_000}
    kept = jsonable({name: list(range(sizes[name])) for name in names} | {"scan_id": 7})
    assert kept["small"] == list(range(10_000))
    assert kept["middle"] == list(range(30_000))
    assert is_left_out(kept["large"])
    assert kept["scan_id"] == 7


def test_a_long_text_costs_no_other_key():
    kept = jsonable({"log": "x" * (MAX_CHARACTERS + 1), "notes": "y" * 5000, "plan_name": "count", "points": [1, 2]})
    assert is_left_out(kept["log"])
    assert kept == {"log": kept["log"], "notes": "y" * 5000, "plan_name": "count", "points": [1, 2]}


def test_of_a_mapping_within_the_smaller_values_are_kept():
    kept = jsonable({"sample": {"mask": MASK, "name": "Fe", "history": [1, 2, 3]}, "scan_id": 7})
    assert is_left_out(kept["sample"].pop("mask"))
    assert kept == {"sample": {"name": "Fe", "history": [1, 2, 3]}, "scan_id": 7}


def test_more_keys_than_may_be_kept_cost_none_that_runs_are_routed_by():
    many = {f"motor_{number}": number for number in range(60_000)}
    kept = jsonable(many | {"uid": "u", "time": 1.0, "scan_id": 7, "plan_name": "count", "prefect": False})
    assert [kept[name] for name in ("uid", "time", "scan_id", "plan_name", "prefect")] == ["u", 1.0, 7, "count", False]
    assert is_left_out(kept[MORE_KEYS])
    assert MAX_VALUES - 10 < len(kept) <= MAX_VALUES


@pytest.mark.parametrize(
    "doc",
    [
        START,
        {f"mask_{number}": list(range(MAX_VALUES - 100)) for number in range(50)},
        {str(number): [number] * 10 for number in range(60_000)},
        {str(number): "x" * 999 for number in range(60_000)},
        {str(number): "x" * (MAX_CHARACTERS - 1) for number in range(10)},
        {"x" * 9_000 + str(number): number for number in range(5_000)},
        {"x" * MAX_CHARACTERS: 1, "scan_id": 7},
        {str(number): {"mask": MASK, "name": "x" * 999} for number in range(100)},
        {str(number): b"\xff" * 20_000 for number in range(5_000)},
    ],
    ids=["mask", "masks", "lists", "texts", "long texts", "long keys", "longest key", "mappings", "bytes"],
)
def test_what_is_kept_is_bounded_and_a_second_conversion_leaves_out_no_more(doc):
    kept = jsonable(doc)
    assert count(kept) <= MAX_VALUES
    assert len(json.dumps(kept, ensure_ascii=False)) < 2 * MAX_CHARACTERS
    assert jsonable(kept) == kept
    assert Submission.from_json(Submission("k", "w", "f/d", "u", start=kept).to_json()).start == kept


def test_looking_for_what_fits_costs_a_bounded_number_of_conversions():
    seen = 0

    class Counted(list):
        def __iter__(self):
            nonlocal seen
            for item in super().__iter__():
                seen += 1
                yield item

    jsonable(dict.fromkeys(map(str, range(2_000)), Counted(range(MAX_VALUES))))
    assert seen < 7 * MAX_VALUES


def test_parameters_that_hold_a_whole_document_keep_it():
    start = jsonable(START | {"profile": list(range(40_000))})
    assert jsonable({"start": start, "threshold": 0.5}) == {"start": start, "threshold": 0.5}


def test_what_is_left_out_is_told_once_with_the_run_and_the_keys(caplog):
    caplog.set_level(logging.DEBUG)
    convert_document(START | {"sample": {"map": MASK}})
    convert_document({"run_start": "the-uid", "uid": "s", "exit_status": "success"})
    [record] = [one for one in caplog.records if one.name.startswith("bluesky_prefect")]
    assert record.levelno == logging.WARNING
    assert record.message.startswith("Run the-uid: Prefect does not get all of its start document")
    assert "mask, sample.map" in record.message


def test_a_selection_of_nothing_is_empty():
    selection = Selection(MAX_VALUES, MAX_CHARACTERS)
    selection.convert({})
    assert (selection.converted, selection.missing) == ({}, [])


def select(mapping, **limits):
    selection = Selection(MAX_VALUES, MAX_CHARACTERS, **limits)
    selection.convert(mapping)
    return selection.converted


class Clock:
    """A clock that stands still but for what those who are asked take, and the number of times that they were."""

    def __init__(self):
        self.asked, self.now = 0, 100.0

    def __call__(self):
        return self.now

    def ask(self, seconds=0.0):
        self.asked += 1
        self.now += seconds


class CountedArray:
    dtype, nbytes = np.dtype(float), 80

    def __init__(self, counter, size):
        self._counter, self.shape = counter, (size,)

    def tolist(self):
        self._counter.ask()
        return [0.0] * self.shape[0]


def test_arrays_are_not_unfolded_that_do_not_fit():
    counter = Clock()
    kept = select({str(number): CountedArray(counter, 9_999) for number in range(1_000)})
    assert len(kept) == 1_000
    assert counter.asked == sum(isinstance(value, list) for value in kept.values()) > 0


def test_a_table_counts_as_its_fields_before_it_is_unfolded():
    table = np.zeros(10_000, dtype=[(f"field_{number}", "i1") for number in range(900)])
    tracemalloc.start()
    try:
        assert is_left_out(jsonable({"table": table, "scan_id": 7})["table"])
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_looking_at_many_values_costs_a_bounded_number_of_looks():
    clock = Clock()
    select({str(number): [1] * 20 for number in range(40_000)}, late=clock.ask)
    assert clock.asked <= 2 * MAX_VALUES


def test_of_many_lists_as_many_are_kept_as_fit():
    kept = select({str(number): list(range(100)) for number in range(5_000)})
    assert sum(isinstance(value, list) for value in kept.values()) > 400


def test_values_that_do_not_fit_cost_no_key_for_the_texts_in_their_place():
    kept = select({str(number): [1, 2, 3] for number in range(MAX_VALUES - 100)})
    assert len(kept) == MAX_VALUES - 100


class Slow:
    def __init__(self, counter):
        self._counter = counter

    def __repr__(self):
        self._counter.ask(seconds=0.05)
        return "slow" * 1_000


def test_only_objects_with_a_slow_repr_are_left_out_when_the_time_is_up(caplog):
    counter = Clock()
    slow = {f"slow_{number}": Slow(counter) for number in range(100)}
    rest = {"uid": "the-uid", "scan_id": 7, "energy": np.float64(8.3), "title": "x" * 1000, "prefect": False}
    kept = convert_document(slow | rest, clock=counter)
    assert counter.now - 100 < 2 * MAX_SECONDS + 0.1
    assert kept.keys() == slow.keys() | rest.keys()
    assert kept.items() >= rest.items()
    assert f"or {MAX_SECONDS} seconds" in caplog.text
    assert "slow_50" in caplog.text


def test_a_document_of_plain_values_within_the_budget_is_always_whole():
    times = itertools.count(step=1_000)
    doc = {"uid": "u", "names": ["a", ("b", {"c"})], "energy": np.float64(8.3), "sample": {"name": "Fe", "x": [1.5]}}
    assert convert_document(doc, clock=lambda: next(times)) == doc | {"names": ["a", ["b", ["c"]]]}


def test_when_the_time_is_up_a_selection_takes_only_keys_and_scalars():
    counter = Clock()
    large = {"object": Slow(counter), "array": CountedArray(counter, 3), "list": [1] * 100, "dict": {"a": [1] * 100}}
    kept = select(large | {"scan_id": np.int64(7), "title": "x" * 1000}, late=lambda: True)
    assert kept.pop("scan_id") == 7
    assert kept.pop("title") == "x" * 1000
    assert kept.keys() == large.keys()
    assert all(map(is_left_out, kept.values()))
    assert counter.asked == 0
