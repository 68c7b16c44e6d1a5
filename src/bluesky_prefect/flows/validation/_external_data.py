"""Arrays that detectors wrote to files: are the files there, whole, and what Tiled says they are."""

import math
import os
import stat
import time
import tokenize
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from bluesky_prefect.core import counted, error_line
from bluesky_prefect.flows.validation._checks import Check
from bluesky_prefect.flows.validation._structure import structure_checks
from bluesky_prefect.tiled_api import SERVER_TROUBLE, FileStructure, read_part

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import ExternalArray, ReadableStorage

# What is asked of Tiled at once.
_BLOCK_BYTES = 16 * 2**20
_LOOK_EVERY_S = 0.5
_HDF5 = {".h5", ".hdf5", ".hdf", ".nxs"}
# What libraries raise at files that are not what they should be; numpy has the header of an array tokenized by Python.
_UNREADABLE = (OSError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError, tokenize.TokenError)


def array_checks(
    stream: str,
    array: "ExternalArray",
    node: Any,
    storage: "ReadableStorage | None" = None,
    *,
    late_until: float = 0.0,
    fix: bool = False,
) -> Iterator[Check]:
    """Check the files of an array, as far as they can be seen from here, then read it all through its node in Tiled.

    `storage` is what the server may read, if that is known. Files that it refuses are no fault of the data. Those that
    are missing are waited for until the time `late_until` of `time.monotonic`. `fix` has Tiled take over from the files
    what they are.
    """
    files = [path for uri in array.files if (path := _visible(uri)) is not None]
    what = f"{array.key}: files"
    while time.monotonic() < late_until and not all(map(os.path.exists, files)):
        time.sleep(_LOOK_EVERY_S)
    try:
        held = [_values_in(path) for path in files]
    except _Unusable as error:
        # Not read through Tiled, which could not say as much.
        yield Check(stream, what, "broken", str(error))
        return
    known = [values for values in held if values is not None]
    if files and len(known) == len(array.files) and sum(known) < math.prod(array.shape):
        yield Check(stream, what, "broken", f"they hold {sum(known)} values, not {math.prod(array.shape)}")
        return
    if files and len(files) == len(array.files) and (structure := FileStructure.of(node)):
        for check in structure_checks(stream, f"{array.key}: structure", structure, fix=fix):
            yield check
            if check.result == "broken":
                return
        array = replace(array, shape=tuple(node.shape))  # it may have been repaired
    if storage and (why := storage.refusal(array.files)):
        yield Check(stream, what, "warning", f"not read: {why}")
        return
    if array.files:
        elsewhere = len(array.files) - len(files)
        yield Check(stream, what, detail=f"{counted(len(files), 'file')} there, {elsewhere} out of sight from here")
    seen = files if storage is None and len(files) == len(array.files) else []
    yield _read_through(stream, array, node, seen)


def _read_through(stream: str, array: "ExternalArray", node: Any, seen: list[Path]) -> Check:
    """Read all of an array; `seen` are its files, if all are here and the server may have no right to read them."""
    import httpx

    what = f"{array.key}: reading"
    begin = 0
    try:
        for part, shape in _parts(array.shape, getattr(getattr(node, "dtype", None), "itemsize", None) or 8):
            begin = part[0].start
            found = tuple(read_part(node, tuple(part) if len(part) > 1 else part[0]).shape)
            if found != shape:
                return Check(stream, what, "broken", f"from {begin} on it has the shape {list(found)}")
    except httpx.HTTPStatusError as error:
        if error.response.status_code in SERVER_TROUBLE:
            raise
        why = f"Tiled cannot read it from {begin} on ({error.response.status_code})"
        if not seen:
            return Check(stream, what, "broken", why)
        told = f"{why}; {seen[0]} is there: let Tiled's user read it, and name {seen[0].parent} under readable_storage"
        return Check(stream, what, "warning" if begin == 0 and all(map(_is_whole, seen)) else "broken", told)
    except (ValueError, TypeError, KeyError, MemoryError) as error:
        return Check(stream, what, "broken", f"from {begin} on: {error_line(error)}")
    return Check(stream, what, detail="all of it")


def _parts(shape: tuple[int, ...], item_bytes: int) -> Iterator[tuple[list[slice], tuple[int, ...]]]:
    """Yield the parts of an array that memory holds, and the shape of each; of a large event, parts of that."""
    if not shape:
        return
    length, rest = shape[0], shape[1:]
    each = math.prod(rest) * item_bytes
    if each > _BLOCK_BYTES and len(rest) > 1:
        for row in range(length):
            for part, held in _parts(rest, item_bytes):
                yield [slice(row, row + 1), *part], (1, *held)
        return
    step = max(_BLOCK_BYTES // max(each, 1), 1)
    for begin in range(0, length, step):
        end = min(begin + step, length)
        yield [slice(begin, end)], (end - begin, *rest)


class _Unusable(Exception):
    """A file is not what it should be."""


def _visible(uri: str) -> Path | None:
    """Return the path of a file of this machine, whether it is there or not; None if it would be elsewhere."""
    try:
        parts = urlsplit(uri)
        if parts.scheme != "file" or parts.hostname not in {None, "localhost"}:
            return None
        path = Path(unquote(parts.path))
        return path if path.parent.is_dir() and os.access(path.parent, os.X_OK) else None
    except (OSError, ValueError):  # a folder that only others may enter, an address that is none
        return None


def _values_in(path: Path) -> int | None:
    """Return how many values a file holds, or None if that is not known from its kind.

    Raises `_Unusable` if it is not there, is empty, or cannot be opened.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            return None
        if not stat.S_ISREG(found.st_mode):
            raise _Unusable(f"{path} is no file")  # whoever opens a named pipe may wait for ever
        if not found.st_size:
            raise _Unusable(f"{path} is empty")
        if path.suffix == ".npy":
            from numpy.lib.format import open_memmap

            # Not numpy.load, which takes archives as well.
            return open_memmap(path, mode="r").size
        if path.suffix in _HDF5:
            _open_hdf5(path)
        else:
            with path.open("rb") as file:
                file.read(1)
    except FileNotFoundError as error:
        raise _Unusable(f"{path} is not there") from error
    except _UNREADABLE as error:
        raise _Unusable(f"{path} cannot be opened: {error_line(error)}") from error
    return None


def _open_hdf5(path: Path) -> None:
    """Raise if a file is shorter than it says; of what else a library may not like, Tiled is the judge."""
    try:
        import h5py
    except ImportError:
        return  # a worker need not have it
    try:
        h5py.File(path, "r", locking=False).close()
    except OSError as error:
        # A detector may still have the file open, which is no fault of the data.
        if "truncated" in str(error) or "signature not found" in str(error):
            raise


def _is_whole(path: Path) -> bool:
    """Tell whether all of a file can be read here; False if nobody here can say."""
    if path.suffix == ".npy":
        return True  # its length is that which it says
    if path.suffix not in _HDF5:
        return False
    try:
        import h5py

        with h5py.File(path, "r", locking=False) as file:
            file.visititems(_read_dataset)
    except (ImportError, *_UNREADABLE):
        return False
    return True


def _read_dataset(_: str, node: Any) -> None:
    if not hasattr(node, "chunks") or not node.shape or not node.size:
        return
    # A dataset without chunks is not compressed: nothing in it can be broken.
    for part in node.iter_chunks() if node.chunks else [(slice(0, 1),) * node.ndim]:
        node[part]
