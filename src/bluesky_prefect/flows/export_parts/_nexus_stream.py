"""A stream as a group of a NeXus file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bluesky_prefect.flows.export_parts._nexus_files import dataset_of, link_array
from bluesky_prefect.flows.export_parts._nexus_values import (
    column_values,
    make_group,
    nexus_names,
    set_attributes,
    write_array,
)

if TYPE_CHECKING:
    import h5py

    from bluesky_prefect.tiled_api import ArraySource, ExternalArray, Stream

ELAPSED_TIME = "elapsed_time"
# What else these would mean in a group of class NXdata.
_RESERVED = ("title", "errors", "offset", "scaling_factor", ELAPSED_TIME)
_EPOCH = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class StreamGroup:
    """A stream, and where its values are in the file.

    Parameters
    ----------
    stream : Stream
        The stream.
    group : h5py.Group
        Where it is.
    names : dict
        Name in the group for each column and array.
    shapes : dict
        Shape of the dataset of that name, by column or array, as far as it is one: () where nobody here knows.
    """

    stream: "Stream"
    group: "h5py.Group"
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def path(self, key: str) -> str:
        """Return the path of a column or array in the file."""
        return f"{self.group.name}/{self.names[key]}"

    def signals(self, motors: list[str]) -> list[str]:
        """Return what is to be plotted: detectors, or else a column of arrays or one that is linked to."""
        if not self.stream.rows:
            return []
        arrays = [key for key, shape in self.shapes.items() if len(shape) > 1 and shape[0] == self.stream.rows]
        hinted = [key for key in self.stream.hinted if key in arrays]
        return self.stream.detectors(motors) or (hinted or arrays)[:1]


def write_stream(
    entry: "h5py.Group",
    name: str,
    stream: "Stream",
    sources: "Mapping[str, Sequence[ArraySource]]",
    prefixes: Mapping[str, str],
    wrote: Callable[[float], None],
) -> StreamGroup:
    """Write a stream to a group: a dataset for each column, and a link or a note for each array beside them.

    Of what is in files of detectors, single numbers are copied, and the rest is linked to if it can be. `wrote` is
    called after each column; the numbers that it is given add up to that of the rows.
    """
    in_table, numbers = set(stream.table.column_names), set(stream.numeric)

    def is_referred(array: "ExternalArray") -> bool:
        can_be_linked = dataset_of(sources.get(array.path, ())) is not None
        return array.key not in in_table or (can_be_linked and array.key not in numbers)

    arrays = [array for array in stream.arrays if is_referred(array)]
    referred = {array.key for array in arrays}
    columns = [key for key in stream.table.column_names if key not in referred]
    keys = [*columns, *(array.key for array in arrays)]
    names = dict(zip(keys, nexus_names(keys, _RESERVED), strict=True))
    shapes: dict[str, tuple[int, ...]] = {}
    group = make_group(entry, name, "NXcollection", stream=stream.name)
    data_keys: Mapping[str, Any] = stream.metadata.get("data_keys") or {}
    for key in columns:
        about = data_keys.get(key) or {}
        values = column_values(stream.table[key])
        dataset = write_array(group, names[key], values)
        set_attributes(dataset, **_attributes(key, names[key], about))
        shapes[key] = values.shape
        wrote(stream.rows / len(columns))
    for array in arrays:
        shape = link_array(group, names[array.key], array, sources.get(array.path, ()), prefixes)
        if shape is not None:
            shapes[array.key] = shape
    written = StreamGroup(stream, group, names, shapes)
    _make_plottable(written)
    return written


def _attributes(key: str, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    if key == "time" or (key.startswith("ts_") and not about):
        return {"units": "s", "start": _EPOCH}
    units = about.get("units")
    units = units if isinstance(units, str) and units else None
    if key == name:
        return {"units": units}
    return {"units": units, "data_key": key, "long_name": f"{key} ({units})" if units else key}


def _make_plottable(written: StreamGroup) -> None:
    """Have the stream plotted against time, if anything in it can be plotted."""
    signals = written.signals([])
    if not signals:
        return
    rest = ["."] * (len(written.shapes[signals[0]]) - 1)
    time = written.names["time"] if "time" in written.stream.table.column_names else "."
    set_attributes(written.group, NX_class="NXdata", signal=written.names[signals[0]], axes=[time, *rest])
    if time != ".":
        set_attributes(written.group, **{f"{time}_indices": 0})
