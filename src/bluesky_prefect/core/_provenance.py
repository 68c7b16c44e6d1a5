"""The file beside exported files that says what made them."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from pydantic import BaseModel, ValidationError

PROVENANCE = ".bluesky-provenance.json"
"""Its name: one for each folder."""
_MOST_BYTES = 10_000_000
_PART_BYTES = 1 << 20


class MadeBy(BaseModel):
    """The flow run that made something, the outermost one: what `%flows` lists.

    Attributes
    ----------
    flow_run_id, flow_run_name, flow : str
        As Prefect has them.
    deployment : str or None
        As ``flow-name/deployment-name``; None if it was called by hand.
    parameters : dict
        What it was started with.
    """

    flow_run_id: str
    flow_run_name: str
    flow: str = ""
    deployment: str | None = None
    parameters: dict[str, Any] = {}


class FileNote(BaseModel):
    """A file as it was written: its size, and its SHA-256 in hexadecimal digits."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the note of a file with this content."""
        return cls(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def of_stream(cls, file: BinaryIO) -> Self:
        """Return the note of an open file, read from its start."""
        file.seek(0)
        digest, size = hashlib.sha256(), 0
        while part := file.read(_PART_BYTES):
            digest.update(part)
            size += len(part)
        return cls(size_bytes=size, sha256=digest.hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self | None:
        """Return the note of a file as it is now; None if it is no regular one. May raise `OSError`."""
        with _regular_file(path) as file:
            return file and cls.of_stream(file)


class Provenance(BaseModel):
    """The makers of the files of a folder: run, flow run and version.

    Attributes
    ----------
    run_uid, scan_id, plan_name : str, int or None, str
        The run.
    made_by : MadeBy or None
        The flow run; None if Prefect did not tell.
    software : dict
        Name and version of the package.
    created : str
        When, as ISO 8601.
    files : dict
        The files by their names.
    """

    format: Literal[1] = 1
    run_uid: str
    scan_id: int | None = None
    plan_name: str = ""
    made_by: MadeBy | None = None
    software: dict[str, str]
    created: str
    files: dict[str, FileNote] = {}

    def content(self) -> bytes:
        """Return the content of the file."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def provenance_in(folder: Path) -> Provenance | None:
    """Return what made the files of a folder; None if nobody has noted it. May raise `OSError`."""
    try:
        with _regular_file(folder / PROVENANCE) as file:
            content = file.read(_MOST_BYTES + 1) if file else b""
        return Provenance.model_validate_json(content) if len(content) <= _MOST_BYTES else None
    except (FileNotFoundError, ValidationError):  # or it is of a newer version
        return None


@contextmanager
def _regular_file(path: Path) -> Iterator[BinaryIO | None]:
    """Open a file for reading; None if it is a symbolic link, or something that may never end or answer."""
    try:
        # Without waiting: a pipe would, for somebody who writes to it.
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            raise
        yield None
        return
    if stat.S_ISREG(os.fstat(opened).st_mode):
        with os.fdopen(opened, "rb") as file:
            yield file
    else:
        os.close(opened)
        yield None
