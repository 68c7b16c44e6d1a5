"""Runs that earlier versions kept in files of another format, read once more."""

import logging
from pathlib import Path
from typing import IO, Any

import msgpack
import msgpack_numpy

from bluesky_prefect.core import error_line, lock_file
from bluesky_prefect.journal._journal import AlreadyRecorded, Journal

logger = logging.getLogger(__name__)


def adopt_unsaved_runs(directory: Path, journals: Path) -> None:
    """Make a journal of each file in a directory of unsaved runs, and delete the file.

    One that a session of an earlier version is writing to is left for the next time. One that cannot be read is
    renamed, and a WARNING names it.
    """
    for path in sorted(directory.glob("*.msgpack")):
        try:
            with path.open("rb") as file:
                lock_file(file)
                _adopt(file, path.stem, journals)
            path.unlink()
        except (OSError, AlreadyRecorded) as error:  # a session is at it, or the disk is full: the next time
            logger.debug("%s is left for the next time: %s", path, error)
        except Exception as error:  # noqa: BLE001 - a decoder that meets garbage raises anything
            logger.warning("%s holds a run that cannot be read, and is set aside: %s", path, error_line(error))
            path.replace(path.with_name(f"{path.name}.unreadable"))


def _adopt(file: IO[bytes], run_uid: str, journals: Path) -> None:
    # Read as a whole before anything is written: what is damaged stays where it is.
    documents = [
        _document(item) for item in msgpack.Unpacker(file, object_hook=msgpack_numpy.decode, strict_map_key=False)
    ]
    if not documents:
        return
    journal = Journal(journals, run_uid)
    try:
        for name, doc in documents:
            journal.append(name, doc)
        if not journal.sync():
            if journal.path is not None:
                journal.path.unlink(missing_ok=True)  # of a run that seems to have no stop
            raise OSError("the disk refuses its documents")
    finally:
        journal.close()


def _document(item: Any) -> tuple[str, dict[str, Any]]:
    match item:
        case [str(name), dict(doc)]:
            return name, doc
        case _:
            raise ValueError("there is something else than documents in it")
