"""Pictures, drawn without a display and safe in any thread (matplotlib's object API; never pyplot)."""

import datetime
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bluesky_prefect.tiled_api import RunData, Stream

_MAX_PANELS = 6


def run_plot(run: "RunData", sums: Mapping[str, Sequence[float]] | None = None) -> bytes:
    """Draw a run's detectors against the scanned motor, over two motors as a map, or against time; return a PNG.

    So are the sums of images, by their data keys.
    """
    figure = new_figure(f"{run.label}  {run.uid[:8]}")
    stream, motors = run.scanned()
    detectors = _detectors(stream, motors, sums or {}) if stream is not None else {}
    if stream is None or not detectors or not stream.rows:
        axes = figure.subplots()
        axes.text(0.5, 0.5, "no numeric data to plot", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return draw(figure)
    shown = list(detectors)[:_MAX_PANELS]
    figure.set_size_inches(8, max(4.5, 2.4 * len(shown)))
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, detector in zip(panels, shown, strict=True):
        _panel(figure, axes, stream, detector, detectors[detector], motors)
    if len(detectors) > len(shown):
        figure.supxlabel(f"{len(detectors) - len(shown)} more detectors are in the CSV only", fontsize=8)
    return draw(figure)


def temperature_plot(weather: dict[str, Any]) -> bytes:
    """Draw the temperatures of a day, with its sunrise and sunset; return a PNG."""
    from matplotlib.dates import DateFormatter, HourLocator

    figure = new_figure()
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
    return draw(figure)


def _day_number(moment: str) -> float:
    from matplotlib.dates import date2num

    return float(date2num(datetime.datetime.fromisoformat(moment)))


def _detectors(stream: "Stream", motors: list[str], sums: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Return what is to be drawn, by its label."""
    found: dict[str, Sequence[float]] = {f"sum of each {key}": values for key, values in sums.items()}
    own = stream.detectors(motors)
    if found and not any(key in stream.hinted for key in own):
        return found  # what nobody asked for is less than what the images say
    return {labelled(stream, key): stream.numbers(key) for key in own} | found


def _panel(
    figure: "Figure", axes: "Axes", stream: "Stream", label: str, values: Sequence[float], motors: list[str]
) -> None:
    if len(motors) > 1:
        slow, fast = motors[0], motors[1]
        points = axes.scatter(stream.numbers(fast), stream.numbers(slow), c=values)
        figure.colorbar(points, ax=axes).set_label(text(label), parse_math=False)
        axes.set_xlabel(text(labelled(stream, fast)), parse_math=False)
        axes.set_ylabel(text(labelled(stream, slow)), parse_math=False)
        return
    if motors:
        x, along = stream.numbers(motors[0]), labelled(stream, motors[0])
    else:
        x, along = _seconds(stream)
    axes.plot(x, values, marker="o", markersize=3)
    axes.set_xlabel(text(along), parse_math=False)
    axes.set_ylabel(text(label), parse_math=False)


def _seconds(stream: "Stream") -> tuple[list[float], str]:
    """Return when points were taken, and what to call it; where that is not known, which frame they are."""
    if "time" not in stream.table.column_names:
        return [float(row) for row in range(stream.rows)], "frame"
    times = stream.numbers("time")
    return [time - times[0] for time in times], "time since the first point (s)"


def unit(stream: "Stream", key: str) -> str:
    """Return the unit of a data key; empty if it has none."""
    units = stream.about(key).get("units")
    return units if isinstance(units, str) else ""


def labelled(stream: "Stream", key: str) -> str:
    """Return a data key with its unit."""
    return f"{key} ({unit(stream, key)})" if unit(stream, key) else key


def text(value: str) -> str:
    """Return text as a picture may show it."""
    return one_line(value, 80)


def new_figure(title: str = "") -> "Figure":
    """Return an empty figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(text(title), parse_math=False)
    return figure


def draw(figure: "Figure") -> bytes:
    """Return a figure as a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes: no reason to trouble the flow's log.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
