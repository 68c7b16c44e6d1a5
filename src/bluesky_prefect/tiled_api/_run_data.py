"""A run's streams as tables: values in columns, external arrays as references."""

import io
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import FlowInputError, as_json, get_settings, one_line
from bluesky_prefect.tiled_api._connect import tiled_errors

if TYPE_CHECKING:
    import numpy
    import pandas
    import pyarrow
    from event_model import DataKey, EventDescriptor, RunStart, RunStop
    from tiled.client.container import Container

    from bluesky_prefect.tiled_api._catalog import Catalog

# A waveform of up to this many values per event goes into the table; anything longer is referred to.
MAX_VALUES_IN_A_CELL = 4096
# Columns of a stream's table that are no readings.
BOOKKEEPING = {"seq_num", "time"}


@dataclass(frozen=True)
class ExternalArray:
    """An array that a detector wrote to files of its own (or that is too long for a table).

    It is read when it is used: ``array[3]`` reads one frame, ``array.read()`` and ``numpy.asarray(array)`` all of it.

    Parameters
    ----------
    key : str
        Its data key.
    path : str
        Its path in Tiled.
    shape : tuple of int
        Shape of the whole array, all events together.
    dtype : str
        Its element type.
    files : list of str
        Addresses of the files that hold it; empty where Tiled holds it or does not say.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    files: list[str]

    def read(self) -> "numpy.ndarray":
        """Read all of it from Tiled; shape and dtype are the array's."""
        return self[...]

    def __getitem__(self, part: Any) -> "numpy.ndarray":
        node, server = self._node
        with tiled_errors(server):
            return node[part]

    def __len__(self) -> int:
        return self.shape[0]

    def read_over(self, catalog: "Catalog") -> None:
        """Have it read over a connection that is there, for as long as that is open."""
        self.__dict__["_node"] = catalog.at(self.path), catalog.name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "numpy.ndarray":
        return self.read().astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        # Into another process goes no connection; it is made anew there.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _node(self) -> tuple[Any, str]:
        """The array in Tiled, over a connection that lasts as long as this object, and the server's name."""
        from bluesky_prefect.tiled_api._catalog import Catalog

        catalog = Catalog.connect(get_settings())
        weakref.finalize(self, catalog.close)
        return catalog.at(self.path), catalog.name

    def cells(self, rows: int) -> list[str]:
        """Return for each of so many events the part of the array that belongs to it."""
        frames = self.shape[0] if self.shape else 0
        if not rows or frames % rows or not frames:
            return [self.path] * rows
        each = frames // rows
        if each == 1:
            return [f"{self.path}[{row}]" for row in range(rows)]
        return [f"{self.path}[{row * each}:{(row + 1) * each}]" for row in range(rows)]


@dataclass(frozen=True)
class Stream:
    """One stream of a run.

    Parameters
    ----------
    name : str
        Its name, such as ``primary``.
    metadata : EventDescriptor
        What its descriptors say (data keys, hints, configuration).
    table : pyarrow.Table
        One row per event, one column per value; a short array is a list in its cell.
    arrays : list of ExternalArray
        What is not in the table.
    """

    name: str
    metadata: "EventDescriptor"
    table: "pyarrow.Table"
    arrays: list[ExternalArray]

    @property
    def rows(self) -> int:
        """Number of events."""
        return self.table.num_rows

    @property
    def hinted(self) -> list[str]:
        """Data keys that their devices ask to be plotted."""
        hints: Any = self.metadata.get("hints") or {}
        return [key for device in hints.values() if device for key in device.get("fields", [])]

    @property
    def numeric(self) -> list[str]:
        """Columns of readings that are numbers."""
        from pyarrow import types

        kinds = (types.is_integer, types.is_floating, types.is_boolean)
        schema = (field for field in self.table.schema if field.name not in BOOKKEEPING)
        return [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]

    def numbers(self, key: str) -> list[float]:
        """Return a column as numbers; what is missing is NaN."""
        return [float("nan") if value is None else float(value) for value in self.table[key].to_pylist()]

    def detectors(self, motors: list[str]) -> list[str]:
        """Return what the devices ask to be plotted, or else every number; motors are none."""
        numeric = [key for key in self.numeric if key not in motors]
        hinted = [key for key in self.hinted if key in numeric]
        return hinted or [key for key in numeric if not key.startswith("ts_")]


class RunData:
    """A finished run, read from Tiled.

    Parameters
    ----------
    start, stop : dict
        The run's documents.
    streams : list of Stream
        What was measured.
    path : str
        The run's path in Tiled.
    access_tags : sequence of str, optional
        Who may see it, as Tiled has it; None where Tiled has no such tags.

    Notes
    -----
    Not a `Run`, nor any dataclass: Prefect walks through those, and through all rows of the tables in them, to see
    whether a task's result hides in an argument.
    """

    def __init__(
        self,
        start: "RunStart",
        stop: "RunStop",
        streams: list[Stream],
        path: str,
        access_tags: Sequence[str] | None = None,
    ) -> None:
        self.start = start
        self.stop = stop
        self.streams = streams
        self.path = path
        self.access_tags = access_tags

    @property
    def uid(self) -> str:
        """The run's full uid."""
        return str(self.start["uid"])

    @property
    def points(self) -> int:
        """Number of events of the primary stream; where there is none, of the longest but for the baseline."""
        rows = {stream.name: stream.rows for stream in self.streams}
        others = [count for name, count in rows.items() if name != "baseline"]
        return rows.get("primary", max(others, default=0))

    @property
    def label(self) -> str:
        """The run's name for people."""
        return f"scan {self.start.get('scan_id', '?')} ({str(self.start.get('plan_name', '?'))[:60]})"

    def stream(self, name: str = "primary") -> Stream:
        """Return a stream; raises `FlowInputError` if the run has none of that name."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        names = ", ".join(one_line(stream.name, 60) for stream in self.streams) or "none"
        raise FlowInputError(f"{one_line(self.label)} has no stream {name!r}. Its streams: {names}.")

    def table(self, stream: str = "primary") -> "pandas.DataFrame":
        """Return a stream as a table: a row for each event, a column for each value, and ``time`` in seconds.

        Raises
        ------
        FlowInputError
            If the run has no such stream.
        """
        return self.stream(stream).table.to_pandas()

    def array(self, key: str, stream: str = "primary") -> ExternalArray:
        """Return an array that is not in the table, such as a detector's images, to be read when it is used.

        Raises
        ------
        FlowInputError
            If the run has no such stream, or the stream has no such array.
        """
        arrays = {array.key: array for array in self.stream(stream).arrays}
        if key not in arrays:
            names = ", ".join(one_line(name, 60) for name in arrays) or "none"
            raise FlowInputError(
                f"{one_line(self.label)} has no array {key!r} in its stream {stream!r}. Its arrays: {names}. "
                "What is short is in its table."
            )
        return arrays[key]

    def scanned(self) -> tuple[Stream | None, list[str]]:
        """Return the stream of the scan, and one motor for each of its dimensions, two at most (none: against time)."""
        named, streams = self._dimensions()
        by_name = {stream.name: stream for stream in self.streams if stream.rows}
        wanted = [name for name in (*streams, "primary") if name in by_name]
        others = [name for name in by_name if name != "baseline"]
        stream = by_name[(wanted or others or list(by_name))[0]] if by_name else None
        if stream is None or not set(named) <= set(stream.numeric):
            return stream, []
        return stream, named[:2]

    def _dimensions(self) -> tuple[list[str], list[str]]:
        """Return motors and streams that the plan's hints name; none where they are no such hints."""
        hints: Any = self.start.get("hints")  # whatever somebody typed
        try:
            dimensions = [(str(fields[0]), str(stream)) for fields, stream in hints["dimensions"]]
        except (TypeError, ValueError, IndexError, KeyError):
            return [], []
        return [motor for motor, _ in dimensions], [stream for _, stream in dimensions]


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
            external.append(_external(key, child))
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


def _external(key: str, node: Any) -> ExternalArray:
    shape = tuple(getattr(node, "shape", ()) or ())
    dtype = str(getattr(node, "dtype", family(node)))
    return ExternalArray(key, "/".join(node.path_parts), shape, dtype, external_files(node))


def external_arrays(run: "Container") -> Iterator[tuple[ExternalArray, Any]]:
    """Yield the arrays of a run that detectors wrote to files of their own and that hold anything, each with its node.

    Tables are not read for it.
    """
    for stream in stream_nodes(run):
        for key, child in stream.items():
            if family(child) == "array" and all(child.shape):
                array = _external(key, child)
                if array.files:
                    yield array, child


def read_one_value(node: Any) -> Any:
    """Have Tiled read the first value of an array, however large that is."""
    return node[(slice(0, 1),) * len(node.shape)]


def external_files(node: Any) -> list[str]:
    """Return the addresses of the files that hold an array, where those are a detector's own."""
    sources = node.data_sources() or []
    return [asset.data_uri for source in sources if source.management == "external" for asset in source.assets]


def family(node: Any) -> str:
    """Return the structure family of a client of Tiled."""
    return str(getattr(node.structure_family, "value", node.structure_family))
