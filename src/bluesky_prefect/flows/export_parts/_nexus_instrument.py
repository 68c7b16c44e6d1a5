"""The devices of a run in a NeXus file."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bluesky_prefect.flows.export_parts._nexus_stream import StreamGroup
from bluesky_prefect.flows.export_parts._nexus_values import make_group, nexus_names, write_value

if TYPE_CHECKING:
    import h5py

    from bluesky_prefect.tiled_api import RunData

# Where a group of the class has its name, and what it is about.
_FIELDS = {"NXpositioner": ("name", "value"), "NXdetector": ("local_name", "data"), "NXcollection": ("name", "value")}


def write_instrument(entry: "h5py.Group", run: "RunData", streams: list[StreamGroup]) -> None:
    """Write a group for each device: what it read, as links to the streams, and its configuration."""
    instrument = make_group(entry, "instrument", "NXinstrument")
    if beamline := run.start.get("beamline_id"):
        write_value(instrument, "name", str(beamline))
    scanned, motors = run.scanned()
    devices: dict[str, dict[str, StreamGroup]] = {}
    # What is in several streams is that of the scan.
    for written in sorted(streams, key=lambda one: one.stream is not scanned):
        for key, device in _devices(written):
            devices.setdefault(device, {}).setdefault(key, written)
    for name, (device, keys) in zip(nexus_names(devices, ("name",)), devices.items(), strict=True):
        nx_class = _class_of(device, keys, run.start, motors)
        _write_device(make_group(instrument, name, nx_class), nx_class, device, keys)


def _devices(written: StreamGroup) -> list[tuple[str, str]]:
    """Return data keys of a stream, each with its device."""
    data_keys: Any = written.stream.metadata.get("data_keys") or {}
    return [(key, written.stream.device(key)) for key in data_keys if key in written.names]


def _class_of(device: str, keys: dict[str, StreamGroup], start: Any, motors: list[str]) -> str:
    def are(role: str) -> bool:
        named = start.get(role)
        return isinstance(named, list | tuple) and device in named

    if are("motors") or not set(motors).isdisjoint(keys):
        return "NXpositioner"
    in_scan = any(written.stream.name != "baseline" for written in keys.values())
    return "NXdetector" if are("detectors") or in_scan else "NXcollection"


def _write_device(group: "h5py.Group", nx_class: str, device: str, keys: dict[str, StreamGroup]) -> None:
    import h5py

    name, value = _FIELDS[nx_class]
    write_value(group, name, device)
    if foremost := _foremost(device, keys, images=nx_class == "NXdetector"):
        group[value] = h5py.SoftLink(foremost)
    readings = make_group(group, "readings", "NXcollection")
    for field, (key, written) in zip(nexus_names(keys), keys.items(), strict=True):
        readings[field] = h5py.SoftLink(written.path(key))
    configuration = _configuration(device, keys)
    data: Mapping[str, Any] = configuration.get("data") or {}
    if not data:
        return
    about: Mapping[str, Any] = configuration.get("data_keys") or {}
    settings = make_group(group, "configuration", "NXcollection")
    for field, key in zip(nexus_names(data), data, strict=True):
        units = (about.get(key) or {}).get("units")
        write_value(settings, field, data[key], units=units if isinstance(units, str) and units else None)


def _foremost(device: str, keys: dict[str, StreamGroup], *, images: bool) -> str:
    """Return the path of the dataset that a device is about; "" if it has none.

    These are its images, or what is named after it, or what it asks to be plotted, or any.
    """

    def rank(key: str) -> tuple[bool, bool, bool]:
        written = keys[key]
        is_image = images and len(written.shapes[key]) > 2
        return not is_image, key != device, key not in written.stream.hinted

    first = min((key for key, written in keys.items() if key in written.shapes), key=rank, default=None)
    return "" if first is None else keys[first].path(first)


def _configuration(device: str, keys: dict[str, StreamGroup]) -> Mapping[str, Any]:
    for written in keys.values():
        configuration: Any = (written.stream.metadata.get("configuration") or {}).get(device)
        if configuration:
            return configuration
    return {}
