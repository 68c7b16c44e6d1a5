"""NumPy arrays made of bytes that somebody else has written: of their data alone, and no larger than that."""

import math
from typing import Any

import numpy as np

# No objects: numpy would take bytes for their addresses. No strings of any length ("T") for the same reason.
_KINDS = frozenset("biufcSUVMm")
_MOST_NESTED = 10
# An array without an element may have dimensions in front of that of none, and become lists of empty lists.
_MOST_EMPTY = 10_000


def array_of(dtype: np.dtype[Any], shape: Any, data: Any, order: str = "C") -> np.ndarray[Any, Any]:
    """Return an array over bytes, which cannot be written to.

    Raises
    ------
    ValueError
        If its type holds something else than data, or its shape does not go with the number of bytes.
    TypeError
        If one of these is nothing of the kind.
    """
    _check(dtype)
    shape = tuple(shape)
    if not all(type(one) is int and one >= 0 for one in shape):
        raise ValueError("an array's shape consists of other things than numbers")
    count = math.prod(shape)
    if not isinstance(data, bytes | bytearray) or count * dtype.itemsize != len(data):
        raise ValueError("an array's shape does not go with its data")
    if not count and math.prod(shape[: shape.index(0)]) > _MOST_EMPTY:
        raise ValueError("an array without elements is too large")
    return np.ndarray(shape, dtype, buffer=memoryview(data).toreadonly(), order="F" if order == "F" else "C")


def _check(dtype: np.dtype[Any], depth: int = 0) -> None:
    """Raise `ValueError` unless a type's elements are data, each with bytes of its own."""
    base = dtype.base
    if depth > _MOST_NESTED or base.hasobject or base.kind not in _KINDS or not dtype.itemsize:
        raise ValueError("an array's type is not one of data")
    if base.fields is not None:
        fields: Any = base.fields
        end = 0
        for part, offset, *_ in sorted((fields[name] for name in base.names or ()), key=lambda field: field[1]):
            if offset < end:
                raise ValueError("fields of an array overlap")
            _check(part, depth + 1)
            end = offset + part.itemsize


def dtype_of(described: Any, depth: int = 0) -> np.dtype[Any]:
    """Return a type from its text, or from its list of fields; raises anything if it is none."""
    if isinstance(described, str):
        return np.dtype(described)
    if not isinstance(described, list | tuple) or depth > _MOST_NESTED:
        raise TypeError("an array's type is described by something else than a text or fields")
    return np.dtype([_field(one, depth) for one in described])


def _field(described: Any, depth: int) -> tuple[Any, ...]:
    name, kind, *shape = described
    # It may have a title beside its name.
    name = tuple(map(_text, name)) if isinstance(name, list | tuple) else _text(name)
    return name, dtype_of(kind, depth + 1), *map(tuple, shape)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
