"""The text file that says what a run was."""

import datetime
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from bluesky_prefect._version import __version__
from bluesky_prefect.core import is_number, one_line

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import RunData

# Everything that bluesky itself puts into a start document; whatever else is there, a user (or the beamline) added.
_BLUESKYS_OWN = {
    "uid", "time", "scan_id", "plan_name", "plan_type", "plan_args", "plan_pattern", "plan_pattern_module",
    "plan_pattern_args", "detectors", "motors", "hints", "num_points", "num_intervals", "versions", "shape", "extents",
    "snaking", "gridding",
}  # fmt: skip


def summary(
    run: "RunData",
    weather: str,
    zone: ZoneInfo,
    files: Iterable[str],
    warnings: Iterable[str] = (),
    provenance: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the text: times in a zone, the lines of the weather block if there is one, the names of files.

    Warnings are what somebody should look at; the provenance says what made the files.
    """
    start, stop = run.start, run.stop
    about = {
        "run uid": run.uid,
        "scan id": start.get("scan_id", "none"),
        "plan": start.get("plan_name", "none"),
        "start time": local_time(start.get("time"), zone),
        "stop time": local_time(stop.get("time"), zone),
        "exit status": stop.get("exit_status", "unknown"),
        "reason": stop.get("reason") or None,
        "detectors": _names(start.get("detectors")),
        "motors": _names(start.get("motors")),
        "points": ", ".join(f"{stream.name}: {stream.rows}" for stream in run.streams) or "none",
    }
    arrays = {
        f"{stream.name}/{array.key}": f"{array.path}, shape {array.shape}, {array.dtype}{_files(array.files)}"
        for stream in run.streams
        for array in stream.arrays
    }
    sections = [
        ("Run", _lines(about)),
        ("User metadata", _lines({key: start[key] for key in start if key not in _BLUESKYS_OWN}) or "none"),
        ("Plan arguments", _lines(start.get("plan_args") or {}) or "none"),
        ("External data (in Tiled)", _lines(arrays)),
        ("Warnings", "\n".join(map(one_line, warnings))),
        ("Weather", weather),
        ("Files", "\n".join(files)),
        ("Provenance", _lines(dict(provenance))),
    ]
    blocks = [f"{title}\n{'-' * len(title)}\n{text}\n" for title, text in sections if text]
    return "\n".join([*blocks, f"Written by bluesky-prefect {__version__}\n"])


def local_time(time_s: Any, zone: ZoneInfo) -> str:
    """Return a moment (seconds since 1970, UTC) as a local time."""
    if not is_number(time_s):
        return "unknown"
    try:
        return datetime.datetime.fromtimestamp(time_s, zone).isoformat(sep=" ", timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return "unknown"


def _lines(values: Any) -> str:
    if not isinstance(values, dict):
        return one_line(values)
    named = [(one_line(name, 60) + ":", value) for name, value in values.items() if value is not None]
    width = max((len(name) for name, _ in named), default=0) + 2
    return "\n".join(f"{name:<{width}}{one_line(value)}" for name, value in named)


def _names(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return ", ".join(one_line(name, 100) for name in value)
    return "none" if not value else one_line(value, 100)


def _files(files: list[str]) -> str:
    if not files:
        return ""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f", in {files[0]}{more}"
