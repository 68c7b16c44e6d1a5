"""A run's streams as tables: values in columns, external arrays as references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import FlowInputError, one_line
from bluesky_prefect.tiled_api._external_array import ExternalArray

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from event_model import EventDescriptor, RunStart, RunStop

    from bluesky_prefect.tiled_api._catalog import Catalog

# Columns of a stream's table that are no readings.
BOOKKEEPING = {"seq_num", "time"}


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
        One row per event, one column per value; a short array is a list in its cell. Where there are no events, as in a
        fly scan, a row per frame, numbered in the column ``frame``.
    arrays : list of ExternalArray
        What is in files of detectors, and what is too long for the table.
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
    def has_events(self) -> bool:
        """False if each row is a frame, as in a fly scan."""
        return "frame" not in self.table.column_names or bool(self.about("frame"))

    @property
    def referred(self) -> list[ExternalArray]:
        """Arrays that are not in the table."""
        return [array for array in self.arrays if array.key not in self.table.column_names]

    @property
    def hinted(self) -> list[str]:
        """Data keys that their devices ask to be plotted."""
        hints: Any = self.metadata.get("hints")  # of whatever type
        devices = hints.values() if isinstance(hints, Mapping) else ()
        fields = [device.get("fields") for device in devices if isinstance(device, Mapping)]
        return [key for keys in fields if isinstance(keys, list | tuple) for key in keys if isinstance(key, str)]

    @property
    def numeric(self) -> list[str]:
        """Columns of readings that are numbers."""
        from pyarrow import types

        kinds = (types.is_integer, types.is_floating, types.is_boolean)
        others = BOOKKEEPING if self.has_events else {*BOOKKEEPING, "frame"}
        schema = (field for field in self.table.schema if field.name not in others)
        return [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]

    def device(self, key: str) -> str:
        """Return the name of the device that a data key belongs to."""
        return str(self.about(key).get("object_name") or key)

    def about(self, key: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a data key; nothing if it does not know it."""
        data_keys: Any = self.metadata.get("data_keys")
        about = data_keys.get(key) if isinstance(data_keys, Mapping) else None
        return about if isinstance(about, Mapping) else {}

    def numbers(self, key: str) -> list[float]:
        """Return a column as numbers; what is missing is NaN."""
        return [float("nan") if value is None else float(value) for value in self.table[key].to_pylist()]

    def detectors(self, motors: list[str]) -> list[str]:
        """Return what the devices ask to be plotted, or else every number; motors are none.

        Of a device that asks for an array, such as its images, these are its numbers.
        """
        numeric = [key for key in self.numeric if key not in motors]
        hinted = [key for key in self.hinted if key in numeric]
        of_arrays = {self.device(key) for key in self.hinted if key not in self.numeric}
        hinted += [key for key in numeric if self.device(key) in of_arrays and key not in hinted]
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
        scan_id, plan_name = self.start.get("scan_id", "?"), self.start.get("plan_name", "?")
        return f"scan {one_line(scan_id, 60)} ({one_line(plan_name, 60)})"

    @property
    def problems(self) -> list[str]:
        """Data that cannot be had, and why, a line each."""
        arrays = ((stream.name, array) for stream in self.streams for array in stream.arrays)
        return [f"{stream}, {array.key}: {array.problem}" for stream, array in arrays if array.problem]

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
        """Return an array of a detector's file, such as its images, to be read when it is used.

        So is one that Tiled holds, if it is too long for the table.

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

    def read_over(self, catalog: "Catalog") -> None:
        """Have all arrays read over a connection that is there, for as long as that is open."""
        for array in (array for stream in self.streams for array in stream.arrays):
            array.read_over(catalog)

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
