"""Runs that Tiled did not take, kept in files, and how they get there in the end."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bluesky_prefect.core import REFUSED_STATUSES, ConfigurationError, error_line, jsonable, lock_file, one_line

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

SUFFIX = ".msgpack"
# PostgreSQL refuses it in any text, DuckDB in the names of columns. This is how JSON writes it; after an even number of
# backslashes only, or it is the text of six characters.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def unsaved_files(directory: Path) -> list[Path]:
    """Return the files of a directory that hold runs, each of which may be whole or not."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def in_use(path: Path) -> bool:
    """Tell whether a session is writing to a file, or somebody is sending it; may raise `FileNotFoundError`."""
    with path.open("rb") as file:
        try:
            lock_file(file)
        except BlockingIOError:
            return True
    return False


def is_recorded(directory: Path, run_uid: str) -> bool:
    """Tell whether a session on this machine is at work on a run, which its `TiledRecorder` has a file of till then."""
    path = directory / f"{run_uid}{SUFFIX}"
    try:
        return path.parent == directory and in_use(path)
    except (OSError, ValueError):
        return False


def read_documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of a run as `TiledRecorder` kept them, ready for another callback.

    The end of a file that was cut short by a crash is left out.

    Raises
    ------
    ConfigurationError
        If the file holds anything else than documents: zeros, say, where the machine lost its power.
    """
    try:
        with path.open("rb") as file:
            yield from documents_in(file)
    except OSError:
        raise
    except Exception as error:  # a decoder that meets garbage raises anything
        raise ConfigurationError(
            f"{path} is damaged and cannot be written to Tiled ({error_line(error)}). Save what you need of it, then "
            "move it out of that directory."
        ) from error


def documents_in(file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of an open file; what is cut short at its end is left out."""
    import msgpack
    import msgpack_numpy

    for number, item in enumerate(msgpack.Unpacker(file, object_hook=msgpack_numpy.decode, strict_map_key=False)):
        match item:
            case [str(name), dict(doc)]:
                yield name, doc
            case _:
                raise ValueError(f"no document after the first {number}, but {one_line(item, 40)}")


def send_run(path: Path, raw: "CatalogOfBlueskyRuns") -> str:
    """Write a run that `TiledRecorder` kept in a file to Tiled, then delete the file; return the run's uid.

    What Tiled holds of it in part is replaced; what it holds as a whole is left as it is.

    Raises
    ------
    ConfigurationError
        If the file holds no whole run, or is damaged, or Tiled does not take what is in it, or its session is still at
        work on it, or somebody else is sending it. The file stays as it is then.
    httpx.TransportError, httpx.HTTPStatusError
        If Tiled cannot be reached, refuses the API key, or fails: that concerns no file.
    """
    with _alone(path):
        documents = list(read_documents(path))
        if not documents or documents[0][0] != "start" or documents[-1][0] != "stop":
            raise ConfigurationError(f"{path} holds no whole run: it goes on, or its session was killed.")
        try:
            uid = write_run(documents, raw)
        except Exception as error:
            if _is_outage(error):
                raise
            raise ConfigurationError(
                f"Tiled does not take the run in {path} ({error_line(error)}). Save what you need of it "
                "(bluesky_prefect.tiled_api.read_documents reads it), then move the file out of that directory."
            ) from error
        path.unlink()
    return uid


def write_run(documents: Sequence[tuple[str, dict[str, Any]]], raw: "CatalogOfBlueskyRuns") -> str:
    """Write a whole run to Tiled and return its uid.

    What Tiled holds of it in part is replaced; what it holds as a whole is left as it is.
    """
    from bluesky_tiled_plugins import TiledWriter

    uid = str(documents[0][1]["uid"])
    if not _is_whole(raw, uid):
        if uid in raw:
            raw.delete_contents(uid, recursive=True, external_only=False)
        writer = TiledWriter(raw, patches=patches())
        for name, doc in documents:
            writer(name, doc)
    return uid


def patches() -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return what `TiledWriter` needs so that it takes documents of any content."""
    whole = dict.fromkeys(("start", "descriptor", "stop"), _fit_tiled)
    return {**whole, "event": _fit_event, "stream_resource": _fit_stream_resource}


def _fit_tiled(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the document as it is, or as plain JSON if Tiled could not send it or its database would refuse it."""
    from tiled.utils import safe_json_dump

    try:
        fits = not _NUL.search(safe_json_dump(doc))
    except (TypeError, ValueError, RecursionError):  # an object, half a character: somebody typed it
        fits = False
    return doc if fits else jsonable(doc)


def _fit_event(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the event with its data under the names that `_fit_tiled` gives them in the descriptor.

    Under others `TiledWriter` would leave them out without a word.
    """
    if all(jsonable(key) == key for key in doc["data"]):
        return doc
    by_key = (name for name in ("data", "timestamps", "filled") if name in doc)
    return {**doc, **{name: {jsonable(key): value for key, value in doc[name].items()} for name in by_key}}


def _fit_stream_resource(doc: dict[str, Any]) -> dict[str, Any]:
    return {**doc, "data_key": jsonable(doc["data_key"])} if "data_key" in doc else doc


def _is_outage(error: Exception) -> bool:
    """Tell whether an error tells of the server, or of who asks, and not of what was to be written."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status in REFUSED_STATUSES or status >= 500
    return isinstance(error, httpx.TransportError)


def _is_whole(raw: "CatalogOfBlueskyRuns", uid: str) -> bool:
    run: Any = raw.get(uid)
    return run is not None and bool(run.metadata.get("stop"))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file against others who send it: each would delete what the other has written so far."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is not there: somebody else has sent it, or deleted it.") from error
    with file:
        try:
            lock_file(file)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"{path} is being written by its session, or sent to Tiled by somebody else."
            ) from error
        if not path.exists():
            raise ConfigurationError(f"{path} is not there any more: somebody else has sent it.")
        yield
