"""Runs read from Tiled, with their streams."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import as_json
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._external_array import ExternalArray, external_array, family
from bluesky_prefect.tiled_api._run_data import RunData, Stream

if TYPE_CHECKING:
    import pyarrow
    from event_model import DataKey
    from tiled.client.container import Container

# A waveform of up to this many values per event goes into the table; anything longer is referred to.
MAX_VALUES_IN_A_CELL = 4096


def read_run(node: "Container", server: str) -> RunData:
    """Read a run with all its streams; messages call the server by this name."""
    run = run_without_streams(node)
    with tiled_errors(server):
        run.streams = [read_stream(stream) for stream in stream_nodes(node)]
    return run


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


def read_stream(node: "Container") -> Stream:
    """Read a stream: its tables, and where its external arrays are."""
    import pyarrow

    metadata = plain(node.metadata)
    data_keys = metadata.get("data_keys") or {}
    columns: dict[str, Any] = {}
    arrays: list[Any] = []
    for key, child in node.items():
        if family(child) == "table":
            table = _read_table(child)
            columns |= {name: table[name] for name in table.column_names if name not in columns}
        elif family(child) != "container":
            arrays.append((key, child))
    rows = len(next(iter(columns.values()))) if columns else 0
    external = []
    for key, child in arrays:
        values = None if "external" in (data_keys.get(key) or {}) else _values(child, rows)
        if values is not None:
            columns[key] = pyarrow.chunked_array([pyarrow.array(values)])
        else:
            external.append(external_array(key, child))
    return Stream(node.item["id"], metadata, pyarrow.table(columns or _no_events(data_keys, external)), external)


def _no_events(data_keys: "dict[str, DataKey]", external: list[ExternalArray]) -> dict[str, Any]:
    """Return the columns of a stream that has no events.

    Where detectors wrote frames all the same, as in a fly scan, there is a row per frame.
    """
    import pyarrow

    frames = {array.shape[0] for array in external if array.shape}
    if len(frames) == 1:
        return {"frame": pyarrow.array(range(*frames))}
    referred = {array.key for array in external}
    return {name: pyarrow.array([]) for name in ("seq_num", "time", *data_keys) if name not in referred}


def _read_table(node: Any) -> "pyarrow.Table":
    """Read a table in Arrow's own types: the way over pandas turns lists into text and whole numbers into floats."""
    import pyarrow.ipc

    buffer = io.BytesIO()
    node.export(buffer, format="application/vnd.apache.arrow.file")
    table = pyarrow.ipc.open_file(buffer.getvalue()).read_all()
    return table.select([name for name in table.column_names if name in node.columns])  # the server adds an index


def _values(node: Any, rows: int) -> list[Any] | None:
    """Return one value (or short list) per event, or None if the array does not fit into a table."""
    if family(node) not in {"array", "ragged"} or not rows:
        return None
    shape = tuple(node.shape)
    per_event = 1
    for length in shape[1:]:
        per_event *= length if length is not None else MAX_VALUES_IN_A_CELL
    if shape[0] != rows or per_event > MAX_VALUES_IN_A_CELL:
        return None
    values = node.read().tolist()
    # Nested lists would have to have a common type; as text they may be whatever they are.
    return values if len(shape) == 1 else [as_json(value) for value in values]


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
