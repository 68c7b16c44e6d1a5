"""Columns of a table as arrays, and values of any kind as datasets of an HDF5 file."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import as_json

if TYPE_CHECKING:
    import h5py
    import numpy
    import pyarrow

_MAX_NAME_LENGTH = 63  # as NeXus recommends
_MAX_ATTRIBUTE_LENGTH = 1000  # HDF5 has room for 64 kB
_MIN_COMPRESSED_BYTES = 4096
_CHUNK_BYTES = 2**19
_NUMERIC = "biuf"


def nexus_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return a name that NeXus allows for each of these, no two alike: ASCII letters, digits and underscores."""
    used = set(taken)
    numbers: dict[str, int] = {}
    result = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_]", "_", name)[:_MAX_NAME_LENGTH] or "_"
        safe = candidate = f"_{safe}"[:_MAX_NAME_LENGTH] if safe[0].isdigit() else safe
        while candidate in used:
            numbers[safe] = number = numbers.get(safe, 1) + 1
            candidate = f"{safe[: _MAX_NAME_LENGTH - 10]}_{number}"
        used.add(candidate)
        result.append(candidate)
    return result


def storable(text: Any) -> str:
    """Return text as HDF5 takes it: NUL characters and lone surrogates are escapes."""
    return str(text).replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def set_attributes(node: "h5py.Group | h5py.Dataset", **attributes: Any) -> None:
    """Set attributes; text is made storable and cut, and what is None is not set."""
    for name, value in attributes.items():
        if value is not None:
            node.attrs[name] = storable(value)[:_MAX_ATTRIBUTE_LENGTH] if isinstance(value, str) else value


def make_group(parent: "h5py.Group", name: str, nx_class: str, **attributes: Any) -> "h5py.Group":
    """Make a group of a class of NeXus."""
    group = parent.create_group(name)
    set_attributes(group, NX_class=nx_class, **attributes)
    return group


def write_value(parent: "h5py.Group", name: str, value: Any, **attributes: Any) -> None:
    """Write a value of metadata: a number, text, or a list of numbers; whatever else it is, as JSON."""
    import numpy

    if isinstance(value, list | tuple):
        try:
            array = numpy.asarray(value)
        except ValueError:  # of no one shape
            array = numpy.empty(0)
        value = array if array.size and array.dtype.kind in _NUMERIC else as_json(value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        value = str(value)
    elif not isinstance(value, str | int | float):
        value = as_json(value)
    dataset = parent.create_dataset(name, data=storable(value) if isinstance(value, str) else value)
    set_attributes(dataset, **attributes)


def write_note(parent: "h5py.Group", name: str, document: Any, description: str) -> None:
    """Write a document as JSON."""
    note = make_group(parent, name, "NXnote")
    write_value(note, "description", description)
    write_value(note, "type", "application/json")
    write_value(note, "data", as_json(document))


def write_array(parent: "h5py.Group", name: str, values: "numpy.ndarray") -> "h5py.Dataset":
    """Write an array, compressed if that is worth it; an array of objects is one of texts."""
    import h5py

    if values.dtype.kind == "O":
        return parent.create_dataset(name, data=values, dtype=h5py.string_dtype())
    if values.nbytes < _MIN_COMPRESSED_BYTES:
        return parent.create_dataset(name, data=values)
    rows = max(min(len(values), _CHUNK_BYTES * len(values) // values.nbytes), 1)
    chunks = (rows, *values.shape[1:])
    return parent.create_dataset(name, data=values, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True)


def column_values(column: "pyarrow.ChunkedArray") -> "numpy.ndarray":
    """Return a column as an array with a row for each of its own: of numbers, or of objects that are text.

    Numbers stay what they are, but for booleans (0 and 1) and where one is missing (NaN). Lists that are of one length
    become rows.
    """
    numbers = _numbers(column)
    return _texts(column) if numbers is None else numbers


def _numbers(column: "pyarrow.ChunkedArray") -> "numpy.ndarray | None":
    import numpy
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_null(kind):
        return numpy.full(len(column), numpy.nan)
    if types.is_boolean(kind):
        return column.cast(pyarrow.int8()).to_numpy()
    if types.is_integer(kind) or types.is_floating(kind):
        return column.to_numpy()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _stacked(column)
    return None


def _stacked(column: "pyarrow.ChunkedArray") -> "numpy.ndarray | None":
    """Return lists as rows; None if they are of different lengths, or not of numbers."""
    import numpy
    from pyarrow import compute

    known = column.drop_null()
    lengths = compute.unique(compute.list_value_length(known))  # pyright: ignore[reportAttributeAccessIssue]
    inner = _numbers(compute.list_flatten(known))  # pyright: ignore[reportAttributeAccessIssue]
    if len(lengths) != 1 or inner is None:
        return None
    rows = inner.reshape(len(known), lengths[0].as_py(), *inner.shape[1:])
    if len(known) == len(column):
        return rows
    result = numpy.full((len(column), *rows.shape[1:]), numpy.nan)
    result[column.is_valid().to_numpy()] = rows
    return result


def _texts(column: "pyarrow.ChunkedArray") -> "numpy.ndarray":
    import numpy
    from pyarrow import compute, types

    if types.is_string(column.type) or types.is_large_string(column.type):
        without_nul = compute.replace_substring(column, "\0", "\\x00")  # pyright: ignore[reportAttributeAccessIssue]
        return compute.fill_null(without_nul, "").to_numpy()
    return numpy.array([_text(value) for value in column.to_pylist()], dtype=object)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return storable(value.decode("utf-8", "backslashreplace"))
    return storable(as_json(value) if isinstance(value, list | dict) else value)
