"""Waveforms of a stream, as maps over its events."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    from bluesky_prefect.tiled_api import Stream

# A picture has no more dots; of a larger map, not every value is taken.
_LONGEST_SIDE = 1000


def waveforms(stream: "Stream") -> "Iterator[tuple[str, int, Callable[[], numpy.ndarray]]]":
    """Yield the waveforms of a stream: data key, how many there are, and what returns them, of shape (events, values).

    Of a large one it has values at even distances, a thousand by a thousand at most.
    """
    for key in stream.table.column_names:
        if _is_waveform(stream, key):
            yield key, stream.rows - stream.table[key].null_count, lambda key=key: _in_table(stream, key)
    for array in stream.referred:
        if array.is_readable and len(array.shape) == 2 and all(array.shape) and min(array.shape) > 1:
            yield array.key, array.shape[0], lambda array=array: array[_steps(array.shape)]


def _is_waveform(stream: "Stream", key: str) -> bool:
    from pyarrow import compute, types

    kind = stream.table.schema.field(key).type
    if not (types.is_fixed_size_list(kind) or types.is_list(kind)):
        return False
    if not (types.is_integer(kind.value_type) or types.is_floating(kind.value_type)):
        return False
    # Of lists that need not have one length: those that have.
    lengths = compute.unique(compute.list_value_length(stream.table[key].drop_null()))  # pyright: ignore[reportAttributeAccessIssue]
    return len(lengths) == 1 and lengths[0].as_py() > 1


def _in_table(stream: "Stream", key: str) -> "numpy.ndarray":
    column = stream.table[key].combine_chunks().drop_null()
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return values[_steps(values.shape)]


def _steps(shape: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(slice(None, None, max(math.ceil(length / _LONGEST_SIDE), 1)) for length in shape)
