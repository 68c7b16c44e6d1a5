"""Frames: each document of a journal as msgpack, after its length, twice, and a checksum.

msgpack keeps bytes and numpy arrays as they are; `msgpack_numpy` is how Bluesky itself sends them.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import msgpack
import msgpack_numpy
import numpy as np

from bluesky_prefect.core import BlueskyPrefectError, error_line, jsonable
from bluesky_prefect.journal._arrays import array_of, dtype_of

# Bytes of the document that follows, the same with all bits inverted, and the CRC-32 of the document. By the second
# one a length that is damaged is told from a document that was cut short.
_HEADER = struct.Struct("<III")
_INVERT = 0xFFFFFFFF
# Of other documents Tiled takes all as JSON, if not as they are.
_WITH_DATA = ("event", "event_page")


class JournalDamaged(BlueskyPrefectError):
    """A journal holds something else than documents, where it should hold one."""


def frame(name: str, doc: dict[str, Any]) -> bytes:
    """Return a document as a frame; what msgpack does not know is converted to JSON values."""
    content: Any
    try:
        content = msgpack.packb([name, doc], default=_encode_value if name in _WITH_DATA else _encode)
    except Exception:  # noqa: BLE001 - a cycle, half a character, an object of any kind that somebody else changes
        content = msgpack.packb([name, jsonable(doc)])
    return _HEADER.pack(len(content), len(content) ^ _INVERT, zlib.crc32(content)) + content


def documents(file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each document from the file's position on, as far as they are whole; leave the position after the last.

    So the file can be read on when more was written to it.

    Raises
    ------
    JournalDamaged
        If there is something else, as zeros where the machine has lost its power, or other bytes than were written.
    """
    while True:
        position = file.tell()
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            file.seek(position)
            return
        length, inverted, checksum = _HEADER.unpack(header)
        try:
            if length ^ _INVERT != inverted:
                raise ValueError("it says two lengths")
            content = file.read(length)
            if len(content) < length:
                file.seek(position)
                return
            if zlib.crc32(content) != checksum:
                raise ValueError("its checksum is that of other bytes")
            name, doc = unpack(content)
        except Exception as error:  # a decoder that meets garbage raises anything
            file.seek(position)
            raise JournalDamaged(f"{file.name} is damaged at byte {position}: {error_line(error)}") from error
        yield name, doc


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        raise TypeError("numpy would pickle it, and a courier has not the session's classes")
    return msgpack_numpy.encode(value)


def _encode_value(value: Any) -> Any:
    """Return a value that msgpack does not know as one that it knows: an image beside it stays what it is."""
    try:
        encoded = _encode(value)
    except Exception:  # noqa: BLE001 - an array of dates, for example, has no buffer
        return jsonable(value)
    return jsonable(value) if encoded is value else encoded


def _decode(value: dict[Any, Any]) -> Any:
    """Return a mapping, or what it stands for as `msgpack_numpy` writes that.

    Not by `msgpack_numpy`, which reads pickles, and has numpy take the bytes of a message for objects.
    """
    try:
        if value.get(b"complex"):
            return complex(value[b"data"])
        if b"nd" not in value or value.get(b"kind") == b"O":
            return value
        dtype = dtype_of(value[b"type"])
        if value[b"nd"] is True:
            return array_of(dtype, value[b"shape"], value[b"data"])
        return array_of(dtype, (), value[b"data"])[()]
    except Exception:  # noqa: BLE001 - a mapping that only looks like an array
        return value


def unpack(content: bytes) -> Any:
    """Return what msgpack holds, with numpy's arrays, as Bluesky writes it; raises anything if it holds none.

    A pickle in it stays bytes: it would run what somebody has put into it. So does an array of objects.
    """
    try:
        return msgpack.unpackb(content, object_hook=_decode, strict_map_key=False)
    except TypeError:  # a tuple was a key, and a list cannot be one
        return msgpack.unpackb(content, object_hook=_decode, strict_map_key=False, use_list=False)
