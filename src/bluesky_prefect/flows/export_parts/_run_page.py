"""The page that an export leaves in Prefect's UI: the run, its plot, its files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from bluesky_prefect.core import is_number, markdown_literal, markdown_table
from bluesky_prefect.flows.export_parts._summary import local_time
from bluesky_prefect.flows.weather._open_meteo import statistics

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import RunData

_MAX_LISTED = 20
_SIGN_IN = "A page that stays empty wants your browser signed in; on the local stack: `bluesky-prefect ui --tiled`"


def run_title(run: "RunData", pictures: Mapping[str, str | None] | None = None) -> str:
    """Return the description of a run's artifacts, in Markdown, with its pictures below.

    A flow run's page shows descriptions, and opens the artifacts themselves only on a click. Pictures are ``data:``
    addresses by what they show; one that is empty is too large, and None is none at all.
    """
    parts = [markdown_literal(f"{run.label}, run {run.uid}")]
    for shows, picture in (pictures or {}).items():
        if picture:
            parts.append(f"![{shows}]({picture})")
        elif picture is not None:
            parts.append(f"The picture of {shows} is too large for this page; see its file.")
    return "\n\n".join(parts)


def run_page(
    run: "RunData",
    *,
    weather: Mapping[str, Any] | str | None,
    zone: ZoneInfo,
    files: Iterable[Path],
    tiled: str,
    warnings: Iterable[str] = (),
) -> str:
    """Return the page below that, in Markdown.

    Parameters
    ----------
    weather : mapping, str or None
        See `open_meteo.parse`; text says why there is none; None if nobody asks for it.
    zone : zoneinfo.ZoneInfo
        Time zone of the times.
    files : iterable of Path
        What was exported.
    tiled : str
        Address of the run in Tiled's own pages.
    warnings : iterable of str
        What somebody should look at.
    """
    paths, told = list(files), list(warnings)
    start, stop = run.start, run.stop
    about = {
        "scan id": markdown_literal(start.get("scan_id", "none"), 60),
        "plan": markdown_literal(start.get("plan_name", "none")),
        "run uid": f"[{markdown_literal(run.uid, 60)}]({tiled})",
        "exit status": markdown_literal(stop.get("exit_status", "unknown")),
        "reason": markdown_literal(stop.get("reason") or ""),
        "start": markdown_literal(local_time(start.get("time"), zone)),
        "duration": markdown_literal(_duration(start.get("time"), stop.get("time"))),
        "points": _listed([f"{stream.name}: {stream.rows}" for stream in run.streams]),
        "detectors": _listed(start.get("detectors")),
        "motors": _listed(start.get("motors")),
        "weather": _weather(weather),
    }
    title = (
        f"# Scan {markdown_literal(start.get('scan_id', '?'), 60)}: {markdown_literal(start.get('plan_name', '?'), 60)}"
    )
    sizes = [(markdown_literal(path.name), _size(path)) for path in paths[:_MAX_LISTED]]
    if more := len(paths) - len(sizes):
        sizes.append((f"and {more} more", ""))
    where = f"In {markdown_literal(str(paths[0].parent), 400)}:\n\n" if paths else ""
    parts = [
        title,
        f"[Look at the data in Tiled]({tiled}). {_SIGN_IN}",
        *(f"**Warning**: {markdown_literal(warning, 500)}" for warning in told[:_MAX_LISTED]),
        *([f"and {len(told) - _MAX_LISTED} more warnings"] if len(told) > _MAX_LISTED else []),
        markdown_table((name, value) for name, value in about.items() if value),
        f"## Files\n\n{where}{markdown_table(sizes)}",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(values: Any) -> str:
    if not isinstance(values, list | tuple):
        return markdown_literal(values) if values else "none"
    more = f" and {len(values) - _MAX_LISTED} more" if len(values) > _MAX_LISTED else ""
    return (", ".join(markdown_literal(value, 60) for value in values[:_MAX_LISTED]) or "none") + more


def _duration(start_s: Any, stop_s: Any) -> str:
    if not is_number(start_s) or not is_number(stop_s):
        return "unknown"
    seconds = stop_s - start_s
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _weather(weather: Mapping[str, Any] | str | None) -> str:
    if weather is None:
        return ""
    if isinstance(weather, str):
        return f"none: {markdown_literal(weather, 300)}"
    known, symbol = statistics(weather), weather["symbol"]
    extremes = f"{known['min']:.1f} to {known['max']:.1f} {symbol}"
    return markdown_literal(f"{extremes}, {known['mean']:.1f} {symbol} on average, {weather['date']}")


def _size(path: Path) -> str:
    size = float(path.stat().st_size)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
