"""Frames: each document of a journal as msgpack, after its length and a checksum.

msgpack keeps bytes and numpy arrays as they are; `msgpack_numpy` is how Bluesky itself sends them.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import msgpack
import msgpack_numpy

from bluesky_prefect.core import BlueskyPrefectError, error_line, jsonable

# Bytes of the document that follows, and their CRC-32.
_HEADER = struct.Struct("<II")


class JournalDamaged(BlueskyPrefectError):
    """A journal holds something else than documents, where it should hold one."""


def frame(name: str, doc: dict[str, Any]) -> bytes:
    """Return a document as a frame; what msgpack does not know is converted to JSON values."""
    content: Any
    try:
        content = msgpack.packb([name, doc], default=msgpack_numpy.encode)
    except (ValueError, TypeError, OverflowError, RecursionError):  # an object, a cycle, an integer of 65 bits
        content = msgpack.packb([name, jsonable(doc)])
    return _HEADER.pack(len(content), zlib.crc32(content)) + content


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
        length, checksum = _HEADER.unpack(header) if len(header) == _HEADER.size else (0, 0)
        content = file.read(length)
        if len(header) < _HEADER.size or len(content) < length:
            file.seek(position)
            return
        try:
            if not length or zlib.crc32(content) != checksum:
                raise ValueError("its checksum is that of other bytes")
            name, doc = msgpack.unpackb(content, object_hook=msgpack_numpy.decode, strict_map_key=False)
        except Exception as error:  # a decoder that meets garbage raises anything
            file.seek(position)
            raise JournalDamaged(f"{file.name} is damaged at byte {position}: {error_line(error)}") from error
        yield name, doc
