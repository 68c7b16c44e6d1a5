"""Waveforms of a stream, as maps over its events."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

    from bluesky_prefect.tiled_api import Stream

# Of more, some events are left out.
_MOST_BYTES = 64 * 2**20


def waveforms(stream: "Stream") -> "dict[str, numpy.ndarray]":
    """Return the waveforms of a stream by data key, each of shape (events, values); of large ones not every event."""
    import numpy

    found = {}
    for key in stream.table.column_names:
        if (values := _in_table(stream, key)) is not None:
            found[key] = values
    for array in stream.referred:
        if len(array.shape) == 2 and min(array.shape) > 1 and not array.problem:
            dtype = numpy.dtype(array.dtype)
            if dtype.kind in "biuf":
                step = math.ceil(math.prod(array.shape) * dtype.itemsize / _MOST_BYTES)
                found[array.key] = array[:: max(step, 1)]
    return found


def _in_table(stream: "Stream", key: str) -> "numpy.ndarray | None":
    from pyarrow import types

    kind = stream.table.schema.field(key).type
    if not (types.is_fixed_size_list(kind) or types.is_list(kind)):
        return None
    if not (types.is_integer(kind.value_type) or types.is_floating(kind.value_type)):
        return None
    column = stream.table[key].combine_chunks().drop_null()
    values = column.flatten().to_numpy(zero_copy_only=False)
    # Of lists that need not have one length: those that have.
    if not len(column) or len(values) % len(column) or len(values) <= len(column):
        return None
    if types.is_list(kind) and len(set(column.value_lengths().to_pylist())) > 1:
        return None
    return values.reshape(len(column), -1)
