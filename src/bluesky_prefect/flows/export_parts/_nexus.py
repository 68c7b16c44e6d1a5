"""A run as a NeXus file: data, devices, sample and user, and a plot for viewers to open on."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from bluesky_prefect._version import __version__
from bluesky_prefect.core import is_number
from bluesky_prefect.flows.export_parts._hdf5_file import new_hdf5
from bluesky_prefect.flows.export_parts._nexus_instrument import write_instrument
from bluesky_prefect.flows.export_parts._nexus_plot import write_plot
from bluesky_prefect.flows.export_parts._nexus_stream import write_stream
from bluesky_prefect.flows.export_parts._nexus_values import (
    make_group,
    nexus_names,
    set_attributes,
    write_note,
    write_value,
)

if TYPE_CHECKING:
    import h5py

    from bluesky_prefect.tiled_api import ArraySource, RunData

_ENTRY = "entry"
_PLOT = "data"
# Names of the entry that no stream has.
_TAKEN = (
    "title", "start_time", "end_time", "entry_identifier", "experiment_identifier", "run_cycle", "program_name",
    "bluesky", "instrument", "sample", "user", _PLOT,
)  # fmt: skip


def write_nexus(
    run: "RunData",
    file: BinaryIO,
    sources: "Mapping[str, Sequence[ArraySource]]",
    prefixes: Mapping[str, str],
    wrote: Callable[[float], None] = lambda rows: None,
) -> None:
    """Write a run to a file.

    Parameters
    ----------
    run : RunData
        The run.
    file : file object
        Where to; open for reading and writing, and empty.
    sources : mapping
        Where its external arrays are; see `array_sources`.
    prefixes : mapping
        Beginnings of their paths, each with what stands in its place for whoever reads the file.
    wrote : callable
        It is called from time to time; the numbers that it is given add up to that of the rows of all streams.
    """
    with new_hdf5(file) as root:
        set_attributes(root, NX_class="NXroot", default=_ENTRY, creator="bluesky-prefect", creator_version=__version__)
        entry = make_group(root, _ENTRY, "NXentry")
        _write_about(entry, run)
        names = nexus_names([stream.name for stream in run.streams], _TAKEN)
        streams = [
            write_stream(entry, name, stream, sources, prefixes, wrote)
            for name, stream in zip(names, run.streams, strict=True)
        ]
        _write_documents(entry, run, names)
        write_instrument(entry, run, streams)
        write_plot(entry, _PLOT, run, streams)


def _write_about(entry: "h5py.Group", run: "RunData") -> None:
    start: Mapping[str, Any] = run.start
    about = {
        "title": run.label,
        "start_time": _moment(start.get("time")),
        "end_time": _moment(run.stop.get("time")),
        "entry_identifier": run.uid,
        "experiment_identifier": start.get("data_session"),
        "run_cycle": start.get("cycle"),
    }
    for name, value in about.items():
        if value:
            write_value(entry, name, str(value))
    versions = start.get("versions")
    version = versions.get("bluesky") if isinstance(versions, Mapping) else None
    write_value(entry, "program_name", "bluesky", version=None if version is None else str(version))
    _write_described(entry, "sample", "NXsample", start.get("sample") or start.get("sample_name"))
    users = start.get("user")
    users = users if isinstance(users, list) else [users]
    for name, user in zip(nexus_names(["user"] * len(users)), users, strict=True):
        _write_described(entry, name, "NXuser", user)


def _write_described(entry: "h5py.Group", name: str, nx_class: str, about: Any) -> None:
    """Write what metadata say of a thing or a person: a name, or a mapping; nothing if they say nothing."""
    if not about:
        return
    fields = about if isinstance(about, Mapping) else {"name": str(about)}
    group = make_group(entry, name, nx_class)
    for field, value in zip(nexus_names(map(str, fields)), fields.values(), strict=True):
        write_value(group, field, value)


def _write_documents(entry: "h5py.Group", run: "RunData", names: list[str]) -> None:
    """Write the run's documents, and what they say of the plan."""
    bluesky = make_group(entry, "bluesky", "NXcollection")
    known = {key: run.start.get(key) for key in ("scan_id", "plan_name")}
    known |= {key: run.stop.get(key) for key in ("exit_status", "reason")}
    for key, value in known.items():
        if value is not None and value != "":
            write_value(bluesky, key, value)
    write_note(bluesky, "start", run.start, "start document")
    write_note(bluesky, "stop", run.stop, "stop document")
    descriptors = make_group(bluesky, "descriptors", "NXcollection")
    for name, stream in zip(names, run.streams, strict=True):
        write_note(descriptors, name, stream.metadata, "what the stream's descriptors say")


def _moment(time_s: Any) -> str:
    """Return a moment (seconds since 1970) as ISO 8601 in UTC; "" if it is none."""
    try:
        return datetime.datetime.fromtimestamp(time_s, datetime.UTC).isoformat() if is_number(time_s) else ""
    except (ValueError, OverflowError, OSError):
        return ""
