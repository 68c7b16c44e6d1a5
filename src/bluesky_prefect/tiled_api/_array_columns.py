"""Columns of a stream's table that Tiled keeps as arrays, whether it holds them itself or a detector's file does."""

import math
import time
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import as_json, counted, one_line
from bluesky_prefect.tiled_api._connect import SERVER_TROUBLE
from bluesky_prefect.tiled_api._external_array import ExternalArray, family, read_part

if TYPE_CHECKING:
    import numpy
    import pyarrow

    from bluesky_prefect.tiled_api._readable import ReadableStorage

MAX_VALUES_IN_A_CELL = 4096
"""So many values an event are in the table; anything larger is referred to."""
# All such columns of a stream, so that whoever reads one needs less than 500 MB.
_MAX_BYTES = 256 * 2**20
# What is asked of Tiled at once.
_BLOCK_BYTES = 16 * 2**20
_NUMBERS = "biuf"
_LARGEST = 8  # Arrow has no longer numbers
# How often a file that may be late is looked for.
_LOOK_EVERY_S = 0.5


class NotInTable(Exception):
    """The values of an array are not in the table; the message says why."""


class CannotBeRead(NotInTable):
    """The values of an array cannot be had at all."""


class ArrayColumns:
    """Reads arrays as columns, within bounds of bytes and, for files that are late, of time.

    Parameters
    ----------
    storage : ReadableStorage or None
        What the server may read, if that is known.
    late_s : float
        How long all files together are waited for, in seconds.
    """

    def __init__(self, storage: "ReadableStorage | None", late_s: float) -> None:
        self._storage = storage
        self._late_s = late_s
        self._deadline: float | None = None
        self._bytes_left = _MAX_BYTES

    def read(
        self, array: ExternalArray, node: Any, rows: int, *, may_be_shorter: bool, each_event: int | None = None
    ) -> "pyarrow.Array | None":
        """Return an array as a column of so many rows: a value each, or a list; None if it is not a short array.

        Where there are no events, an array `may_be_shorter` than others; its last rows are empty then. `each_event` is
        how many values of each event the descriptor promises.

        Raises
        ------
        NotInTable
            If Tiled refuses to read it; or it is short, but cannot be had, or has not as many rows as it should.
        """
        if self._storage and (why := self._storage.refusal(array.files)):
            raise CannotBeRead(why)
        if family(node) not in {"array", "ragged"} or not rows or not array.shape or array.shape[0] is None:
            return None
        length, *each = array.shape
        if length and not length % rows:
            each = [length // rows, *each]
        values = math.prod(MAX_VALUES_IN_A_CELL if one is None else one for one in each)
        if array.files and values > MAX_VALUES_IN_A_CELL:
            self._patiently(array, node, (slice(0, 1),) * len(array.shape))  # is it there?
        if (length % rows or not length) and not (may_be_shorter and length < rows):
            raise NotInTable(f"{counted(length, 'row')} of it, and {counted(rows, 'event')}")
        if length != rows and not may_be_shorter and each_event not in {None, values}:
            raise NotInTable(f"{values} values of it for each event, and not {each_event}")
        if values > MAX_VALUES_IN_A_CELL:
            return None
        if family(node) == "ragged" or node.dtype.kind not in _NUMBERS or node.dtype.itemsize > _LARGEST or not values:
            return None if array.files else _texts(node.read().tolist(), len(array.shape))
        size = math.prod(array.shape) * node.dtype.itemsize
        if size > self._bytes_left:
            raise NotInTable(f"{size / 1e6:,.0f} MB of it, too much for a table")
        self._bytes_left -= size
        return _column(self._numbers(array, node), each, rows)

    def _numbers(self, array: ExternalArray, node: Any) -> "numpy.ndarray":
        """Read all of an array of numbers, in parts."""
        import numpy

        result = numpy.empty(array.shape, node.dtype.newbyteorder("="))
        step = max(_BLOCK_BYTES // max(result[:1].nbytes, 1), 1)
        for begin in range(0, len(result), step):
            part = slice(begin, min(begin + step, len(result)))
            result[part] = self._patiently(array, node, part)
        return result

    def _patiently(self, array: ExternalArray, node: Any, part: Any) -> "numpy.ndarray":
        """Read a part; a file of a detector may be late."""
        import httpx

        while True:
            try:
                return read_part(node, part)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status in SERVER_TROUBLE or not array.files:
                    raise
                why = f"Tiled cannot read it ({status}) from {one_line(array.files[0])}"
            except (ValueError, TypeError) as error:  # of another shape than it should be
                why = f"Tiled does not read it as it should be ({one_line(str(error), 200)})"
            if self._deadline is None:
                self._deadline = time.monotonic() + self._late_s
            if time.monotonic() >= self._deadline:
                raise CannotBeRead(f"{why}, {self._late_s:g} s after it was first tried")
            time.sleep(_LOOK_EVERY_S)


def _texts(values: list[Any], dimensions: int) -> "pyarrow.Array":
    """Return values that are no numbers; lists are JSON, since they need not have a common type."""
    import pyarrow

    return pyarrow.array(values if dimensions == 1 else [as_json(value) for value in values])


def _column(values: "numpy.ndarray", each: list[int], rows: int) -> "pyarrow.Array":
    """Return numbers as a column, without copying them where Arrow can share them; rows at the end may be empty."""
    import pyarrow

    column: pyarrow.Array = pyarrow.array(values.reshape(-1))
    # A detector that takes one frame for each event says so by a dimension of its own.
    for length in (length for length in reversed(each) if length > 1):
        column = pyarrow.FixedSizeListArray.from_arrays(column, length)
    if missing := rows - len(column):
        column = pyarrow.concat_arrays([column, pyarrow.nulls(missing, column.type)])
    return column
