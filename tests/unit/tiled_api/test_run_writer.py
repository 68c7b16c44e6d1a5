"""What decides how documents are written: batches, and types that change."""

from typing import Any

import numpy as np
import pytest

from bluesky_prefect.tiled_api._run_writer import CannotFollow, RunWriter, UidIsNoKey, _BatchSize, _kind


@pytest.mark.parametrize("gathered", range(4))
@pytest.mark.parametrize("size", [1, 2, 10_000])
def test_a_batch_size_compares_as_the_number_that_it_is_now(gathered, size):
    batch_size = _BatchSize()
    batch_size.now = size
    assert (gathered >= batch_size) == (gathered >= size)
    assert (gathered > batch_size) == (gathered > size)
    assert (batch_size <= gathered) == (size <= gathered)
    assert (batch_size < gathered) == (size < gathered)
    assert (batch_size == gathered) == (size == gathered)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1.0, 2.5), (1, 2**40), ("a", "bcd"), ([1, 2], [3, 4]), (1.0, float("nan")), (np.float64(1), 2.0)],
)
def test_values_of_one_type_are_of_one_kind(one, other):
    assert _kind(one) == _kind(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.5),
        (1.0, None),
        (True, 1),
        ("1", 1),
        ([1, 2], [1, 2, 3]),
        ([1, 2], [1.5, 2]),
        (["a"], ["ab"]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (np.arange(3), np.arange(3.0)),
    ],
)
def test_values_that_a_table_of_the_first_would_change_are_of_different_kinds(one, other):
    assert _kind(one) != _kind(other)


class _Catalog:
    """A catalog that takes note of what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def include_data_sources(self) -> "_Catalog":
        return self  # asks nothing

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        raise AttributeError(name)


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "../processed", "other/primary", "other?", "other#", "other%2Fprimary", "/", "other\n", 5]
)
def test_a_uid_that_is_another_path_in_tiled_is_refused_before_anything_is_asked_of_tiled(uid):
    # TiledWriter would write to that path; the DELETE of a half-written run would empty it: with "..", all of Tiled.
    catalog = _Catalog()
    start = ("start", {"uid": uid, "time": 0.0})
    with pytest.raises(UidIsNoKey, match="uid"):
        RunWriter(catalog).write([start])
    with pytest.raises(UidIsNoKey):
        RunWriter(catalog).write_unfinished(lambda: [[start]])
    with pytest.raises(CannotFollow):
        RunWriter(catalog).follow([start])
    assert not catalog.asked
