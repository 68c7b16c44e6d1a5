"""Runs read from Tiled, with their streams."""

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import Settings, get_settings
from bluesky_prefect.tiled_api._array_columns import ArrayColumns, CannotBeRead, NotInTable
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._external_array import ExternalArray, external_array, family
from bluesky_prefect.tiled_api._readable import readable_storage
from bluesky_prefect.tiled_api._run_data import RunData, Stream

if TYPE_CHECKING:
    import pyarrow
    from tiled.client.container import Container


def read_run(node: "Container", server: str) -> RunData:
    """Read a run with all its streams; messages call the server by this name."""
    run, columns = run_without_streams(node), array_columns(get_settings())
    with tiled_errors(server):
        run.streams = [read_stream(stream, columns) for stream in stream_nodes(node)]
    return run


def array_columns(settings: Settings) -> ArrayColumns:
    """Return what reads the short arrays of one run."""
    return ArrayColumns(readable_storage(settings), settings.files_timeout_s)


def run_without_streams(node: "Container") -> RunData:
    """Return a run, its streams left to be read."""
    metadata = plain(node.metadata)
    tags = getattr(node, "access_tags", None)  # raises AttributeError where the server has none
    return RunData(
        metadata["start"], metadata["stop"], [], "/".join(node.path_parts), None if tags is None else list(tags)
    )


def plain(value: Any) -> Any:
    """Return metadata as plain dictionaries and lists (Tiled hands out read-only views)."""
    if hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListView":
        return [plain(item) for item in value]
    return value


def stream_nodes(run: "Container") -> list["Container"]:
    """Return the streams of a run as they are in Tiled."""
    children = [(key, child) for key, child in run.items() if family(child) == "container"]
    if [key for key, _ in children] == ["streams"] and not children[0][1].specs:
        # An older layout, which bluesky-tiled-plugins still reads: the streams are one level down.
        return [child for _, child in children[0][1].items() if family(child) == "container"]
    return [child for _, child in children]


def read_stream(node: "Container", columns: ArrayColumns) -> Stream:
    """Read a stream: its tables, the arrays that are short, and where its other arrays are."""
    import pyarrow

    metadata = plain(node.metadata)
    table: dict[str, Any] = {}
    arrays: list[tuple[ExternalArray, Any]] = []
    for key, child in node.items():
        if family(child) == "table":
            read = _read_table(child)
            table |= {name: read[name] for name in read.column_names if name not in table}
        elif family(child) != "container":
            arrays.append((external_array(key, child), child))
    has_events = bool(table)
    rows = len(next(iter(table.values()))) if has_events else _frames(arrays)
    if not has_events and rows:
        table["frame"] = pyarrow.array(range(rows))
    kept = []
    for array, child in arrays:
        try:
            each = _promised(metadata, array.key)
            column = columns.read(array, child, rows, may_be_shorter=not has_events, each_event=each)
        except NotInTable as why:
            kept.append(replace(array, problem=str(why), is_readable=not isinstance(why, CannotBeRead)))
            continue
        if column is not None:
            table[array.key] = pyarrow.chunked_array([column])
        if column is None or array.files:
            kept.append(array)
    return Stream(node.item["id"], metadata, pyarrow.table(table or _no_events(metadata, kept)), kept)


def _promised(metadata: Any, key: str) -> int | None:
    """Return how many values of each event the descriptor promises; None if it does not say."""
    try:
        return math.prod(int(length) for length in metadata["data_keys"][key]["shape"])
    except (KeyError, TypeError, ValueError):
        return None


def _frames(arrays: list[tuple[ExternalArray, Any]]) -> int:
    """Return the number of rows of a stream without events, as a fly scan has it: a row for each frame."""
    return max((array.shape[0] or 0 for array, _ in arrays if array.shape), default=0)


def _no_events(metadata: Any, arrays: list[ExternalArray]) -> dict[str, Any]:
    """Return the columns of a stream that has neither events nor frames."""
    import pyarrow

    referred = {array.key for array in arrays}
    names = ("seq_num", "time", *(metadata.get("data_keys") or {}))
    return {name: pyarrow.array([]) for name in names if name not in referred}


def _read_table(node: Any) -> "pyarrow.Table":
    """Read a table in Arrow's own types: the way over pandas turns lists into text and whole numbers into floats."""
    import pyarrow.ipc

    buffer = io.BytesIO()
    node.export(buffer, format="application/vnd.apache.arrow.file")
    table = pyarrow.ipc.open_file(buffer.getvalue()).read_all()
    return table.select([name for name in table.column_names if name in node.columns])  # the server adds an index


def external_arrays(run: "Container") -> Iterator[tuple[ExternalArray, Any]]:
    """Yield the arrays of a run that detectors wrote to files of their own and that hold anything, each with its node.

    Tables are not read for it.
    """
    for stream in stream_nodes(run):
        for key, child in stream.items():
            if family(child) == "array" and all(child.shape):
                array = external_array(key, child)
                if array.files:
                    yield array, child
