"""Pictures, drawn without a display and safe in any thread (matplotlib's object API; never pyplot)."""

import base64
import datetime
import io
import warnings
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bluesky_prefect.tiled_api import RunData, Stream

_MAX_PANELS = 6
_DATA = "data:image/png;base64,"
# Scales of each side, and colours, in the order tried to make a picture small. Sixty-four do for letters with smooth
# edges and a colour map; the last is four bits a dot, 52 kB of the largest plot whatever it shows.
_SMALLER = ((1.0, 64), (0.7, 64), (0.5, 64), (0.35, 32), (0.3, 16))


def run_plot(run: "RunData") -> bytes:
    """Draw a run's detectors against the scanned motor, over two motors as a map, or against time; return a PNG."""
    figure = _figure()
    figure.suptitle(_text(f"{run.label}  {run.uid[:8]}"), parse_math=False)
    stream, motors = run.scanned()
    detectors = stream.detectors(motors) if stream is not None else []
    if stream is None or not detectors or not stream.rows:
        axes = figure.subplots()
        axes.text(0.5, 0.5, "no numeric data to plot", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return _png(figure)
    shown = detectors[:_MAX_PANELS]
    figure.set_size_inches(8, max(4.5, 2.4 * len(shown)))
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, detector in zip(panels, shown, strict=True):
        _panel(figure, axes, stream, detector, motors)
    if len(detectors) > len(shown):
        figure.supxlabel(f"{len(detectors) - len(shown)} more detectors are in the CSV only", fontsize=8)
    return _png(figure)


def data_address(png: bytes, most_bytes: int) -> str:
    """Return a picture as a ``data:`` address of so many bytes at most, with fewer colours and dots if need be.

    Empty if even the smallest picture does not fit.
    """
    from PIL import Image

    most_bytes = (most_bytes - len(_DATA)) // 4 * 3
    if len(png) <= most_bytes:
        return _DATA + base64.b64encode(png).decode()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for scale, colours in _SMALLER:
        size = (round(picture.width * scale), round(picture.height * scale))
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).quantize(colours).save(buffer, format="png", optimize=True)
        if buffer.tell() <= most_bytes:
            return _DATA + base64.b64encode(buffer.getvalue()).decode()
    return ""


def temperature_plot(weather: dict[str, Any]) -> bytes:
    """Draw the temperatures of a day, with its sunrise and sunset; return a PNG."""
    from matplotlib.dates import DateFormatter, HourLocator

    figure = _figure()
    axes = figure.subplots()
    hours = [_day_number(hour) for hour in weather["hours"]]
    temperatures = [float("nan") if value is None else value for value in weather["temperatures"]]
    axes.plot(hours, temperatures, marker="o", markersize=3)
    for name, color in (("sunrise", "tab:orange"), ("sunset", "tab:purple")):
        if weather[name]:
            axes.axvline(_day_number(weather[name]), color=color, linestyle="--", label=f"{name} {weather[name][-5:]}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.set_xlabel(f"time ({weather['timezone']})")
    axes.set_ylabel(f"temperature ({weather['symbol']})")
    place = weather["name"] or f"{weather['latitude']:g}, {weather['longitude']:g}"
    axes.set_title(f"{weather['date']} at {one_line(place, 60)}")
    axes.xaxis.set_major_locator(HourLocator(byhour=range(0, 24, 3)))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    return _png(figure)


def _day_number(moment: str) -> float:
    from matplotlib.dates import date2num

    return float(date2num(datetime.datetime.fromisoformat(moment)))


def _panel(figure: "Figure", axes: "Axes", stream: "Stream", detector: str, motors: list[str]) -> None:
    values = stream.numbers(detector)
    if len(motors) > 1:
        slow, fast = motors[0], motors[1]
        points = axes.scatter(stream.numbers(fast), stream.numbers(slow), c=values)
        figure.colorbar(points, ax=axes).set_label(_text(detector), parse_math=False)
        axes.set_xlabel(_text(fast), parse_math=False)
        axes.set_ylabel(_text(slow), parse_math=False)
        return
    if motors:
        x, label = stream.numbers(motors[0]), motors[0]
    else:
        x, label = _seconds(stream), "time since the first point (s)"
    axes.plot(x, values, marker="o", markersize=3)
    axes.set_xlabel(_text(label), parse_math=False)
    axes.set_ylabel(_text(detector), parse_math=False)


def _seconds(stream: "Stream") -> list[float]:
    if "time" not in stream.table.column_names:
        return [float(row) for row in range(stream.rows)]
    times = stream.numbers("time")
    return [time - times[0] for time in times]


def _text(text: str) -> str:
    return one_line(text, 80)


def _figure() -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes: no reason to trouble the flow's log.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
