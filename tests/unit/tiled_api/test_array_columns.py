"""Short arrays of a stream are columns of its table, wherever they are kept; what cannot be had says why."""

from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.tiled_api import ArrayColumns, ExternalArray, ReadableStorage
from bluesky_prefect.tiled_api import _array_columns as module
from bluesky_prefect.tiled_api._array_columns import CannotBeRead, NotInTable

FILE = "file://localhost/data/a.h5"


class Node:
    """An array as a client of Tiled has it, which counts how often it is read."""

    structure_family = "array"

    def __init__(self, values, errors=()):
        self.values = np.asarray(values)
        self.dtype = self.values.dtype
        self.shape = self.values.shape
        self.errors = list(errors)
        self.parts = []
        self.context = SimpleNamespace(http_client=SimpleNamespace(event_hooks={"response": []}))

    def read(self):
        return self.values

    def __getitem__(self, part):
        self.parts.append(part)
        if self.errors:
            raise self.errors.pop(0)
        return self.values[part]


def status(code):
    request = httpx.Request("GET", "http://tiled")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(code, request=request))


def read(node, rows, *, files=(FILE,), storage=None, late_s=0.0, may_be_shorter=False):
    array = ExternalArray("key", "raw/u/primary/key", node.shape, str(node.dtype), list(files))
    return ArrayColumns(storage, late_s).read(array, node, rows, may_be_shorter=may_be_shorter)


@pytest.mark.parametrize("files", [(), (FILE,)])
@pytest.mark.parametrize(
    ("values", "rows", "column"),
    [
        ([1, 2, 3], 3, [1, 2, 3]),
        ([0.5, float("inf")], 2, [0.5, float("inf")]),
        ([[1], [2]], 2, [1, 2]),
        ([[1, 2], [3, 4]], 2, [[1, 2], [3, 4]]),
        ([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], 2, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]),
        ([[[[1, 2]]]], 1, [[1, 2]]),
        ([1, 2, 3, 4], 2, [[1, 2], [3, 4]]),
        ([True, False], 2, [True, False]),
        (np.array([1, 2], ">u2"), 2, [1, 2]),
        (np.array([2**64 - 1], "u8"), 1, [2**64 - 1]),
    ],
)
def test_numbers_are_in_the_table_as_they_are(values, rows, column, files):
    assert read(Node(values), rows, files=files).to_pylist() == column


@pytest.mark.parametrize(
    ("values", "column"),
    [(["a", "b"], ["a", "b"]), ([["a", "b"]], ['["a", "b"]']), (np.zeros((1, 0)), ["[]"])],
)
def test_what_is_no_number_is_text(values, column):
    assert read(Node(values), len(values), files=()).to_pylist() == column


def test_4096_values_an_event_are_in_the_table_and_4097_are_not():
    assert len(read(Node(np.zeros((2, 64, 64))), 2)) == 2
    assert read(Node(np.zeros((2, 4097))), 2) is None
    assert read(Node(np.zeros((8194,))), 2) is None


def test_a_large_column_is_read_in_parts(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 100)
    node = Node(np.arange(30.0))
    assert read(node, 30).to_pylist() == list(range(30))
    assert len(node.parts) == 3


def test_columns_of_a_stream_are_bounded_together(monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 200)
    columns = ArrayColumns(None, 0.0)
    node = Node(np.arange(20.0))
    array = ExternalArray("key", "p", node.shape, "float64", [FILE])
    assert columns.read(array, node, 20, may_be_shorter=False) is not None
    with pytest.raises(NotInTable, match="too much for a table"):
        columns.read(array, node, 20, may_be_shorter=False)


def test_values_that_the_descriptor_does_not_promise_are_not_taken_for_those_of_an_event():
    array = ExternalArray("key", "p", (20,), "int64", [FILE])
    columns = ArrayColumns(None, 0.0)
    assert len(columns.read(array, Node(np.arange(20)), 10, may_be_shorter=False, each_event=2)) == 10
    with pytest.raises(NotInTable, match="2 values of it for each event, and not 1"):
        columns.read(array, Node(np.arange(20)), 10, may_be_shorter=False, each_event=1)


def test_large_images_that_do_not_belong_to_events_are_told_too():
    with pytest.raises(NotInTable, match="11 rows of it, and 10 events"):
        read(Node(np.zeros((11, 100, 100), "uint8")), 10)


def test_a_large_image_whose_file_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    with pytest.raises(CannotBeRead, match=r"from file://localhost/data/a\.h5"):
        read(Node(np.zeros((2, 100, 100), "uint8"), [status(500)] * 1000), 2, late_s=0.1)


def test_numbers_longer_than_arrow_has_are_referred_to():
    assert read(Node(np.zeros(2, np.longdouble)), 2) is None


def test_rows_that_do_not_belong_to_events_are_told():
    with pytest.raises(NotInTable, match="11 rows of it, and 10 events"):
        read(Node(np.arange(11)), 10)


def test_an_array_without_rows_is_told_and_no_column_of_nothing():
    with pytest.raises(NotInTable, match="0 rows of it, and 10 events"):
        read(Node(np.zeros(0)), 10)


def test_in_a_fly_scan_a_slower_detector_has_empty_rows_at_the_end():
    assert read(Node([1, 2]), 3, may_be_shorter=True).to_pylist() == [1, 2, None]
    assert read(Node([[1, 2], [3, 4]]), 3, may_be_shorter=True).to_pylist() == [[1, 2], [3, 4], None]


def test_what_tiled_may_not_read_is_not_asked_for():
    storage = ReadableStorage(server="x", storage=(Path("/elsewhere"),))
    node = Node(np.zeros((2, 9000)))
    with pytest.raises(NotInTable, match="lies outside the directories that Tiled may read"):
        read(node, 2, storage=storage)
    assert node.parts == []


@pytest.mark.parametrize("code", [404, 500])
def test_a_file_that_is_late_is_looked_for_again(monkeypatch, code):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    node = Node([1, 2], [status(code), status(code)])
    assert read(node, 2, late_s=10).to_pylist() == [1, 2]


def test_a_file_that_does_not_come_is_told_once_the_time_is_over(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    with pytest.raises(NotInTable, match=r"Tiled cannot read it \(500\) from file://localhost/data/a.h5, 0.1 s after"):
        read(Node([1], [status(500)] * 1000), 1, late_s=0.1)


def test_all_late_files_of_a_run_are_waited_for_together(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    columns = ArrayColumns(None, 0.1)
    for expected in (">1", "1"):
        node = Node([1], [status(500)] * 1000)
        array = ExternalArray("key", "p", node.shape, "int64", [FILE])
        with pytest.raises(NotInTable):
            columns.read(array, node, 1, may_be_shorter=False)
        assert (len(node.parts) > 1) is (expected == ">1")


def test_a_server_in_trouble_is_no_fault_of_the_file():
    with pytest.raises(httpx.HTTPStatusError):
        read(Node([1], [status(503)]), 1)


def test_what_tiled_itself_holds_is_not_waited_for():
    with pytest.raises(httpx.HTTPStatusError):
        read(Node([1], [status(500)]), 1, files=(), late_s=10)


def test_the_time_is_a_setting():
    assert Settings(files_timeout_s=3).files_timeout_s == 3
