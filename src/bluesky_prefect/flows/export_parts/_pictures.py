"""The picture of a run's images and waveforms."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import error_line
from bluesky_prefect.flows.export_parts._image_series import ImageSeries
from bluesky_prefect.flows.export_parts._plots import draw, labelled, new_figure, text, unit
from bluesky_prefect.flows.export_parts._waveforms import waveforms

if TYPE_CHECKING:
    import numpy
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from bluesky_prefect.tiled_api import RunData, Stream

_MOST_KEYS = 3
_MOST_IMAGES = 9
_COLUMNS = 3
_SHOWN_SIDE = 256
# Colours span these percentiles, so that one hot pixel does not make everything else dark.
_DARKEST, _BRIGHTEST = 1.0, 99.5


@dataclass
class Pictures:
    """Pictures of a run's images and waveforms.

    Attributes
    ----------
    png : bytes
        The picture; empty if there is nothing to be seen.
    sums : dict of str to list of float
        The sum of each image, by data key, for those of detectors that give no numbers themselves.
    problems : list of str
        What could not be shown, and why.
    """

    png: bytes = b""
    sums: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def draw_pictures(run: "RunData") -> Pictures:
    """Draw images and waveforms of a run's scan.

    Of a scan, up to nine images labelled with where the motors were; else the first, the last, and the mean of all. A
    waveform is a map over the scan.
    """
    result = Pictures()
    stream, motors = run.scanned()
    if stream is None:
        return result
    panels: list[_Sheet | _Map] = []
    for key, made in _of_stream(stream, motors, result):
        if len(panels) < _MOST_KEYS:
            try:
                panels.append(made())
            except Exception as error:  # noqa: BLE001 - whatever an array has, the rest of the run is exported
                result.problems.append(f"{stream.name}, {key}: no picture: {error_line(error)}")
    try:
        result.png = _drawn(f"{run.label}  {run.uid[:8]}", panels) if panels else b""
    except Exception as error:  # noqa: BLE001 - as before
        result.problems.append(f"{stream.name}: no picture of images and waveforms: {error_line(error)}")
    return result


def _of_stream(
    stream: "Stream", motors: list[str], result: Pictures
) -> "Iterator[tuple[str, Callable[[], _Sheet | _Map]]]":
    """Yield what there is to be shown: data key, and what reads it."""
    for series in ImageSeries.of_stream(stream):
        yield series.key, lambda series=series: _Sheet.of(series, stream, motors, result)
    for key, events, read in waveforms(stream):
        yield key, lambda key=key, events=events, read=read: _Map(key, read(), events, stream, motors)


def _drawn(title: str, panels: "Sequence[_Sheet | _Map]") -> bytes:
    figure = new_figure(title)
    heights = [panel.height for panel in panels]
    figure.set_size_inches(8, sum(heights) + 0.5)
    parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, part in zip(panels, parts, strict=True):
        panel.draw(part)
    return draw(figure)


@dataclass
class _Sheet:
    """Images beside each other, with one scale of colours."""

    title: str
    images: "list[numpy.ndarray]"
    labels: list[str]

    @classmethod
    def of(cls, series: ImageSeries, stream: "Stream", motors: Sequence[str], result: Pictures) -> "_Sheet":
        """Read what is to be shown; the sums of images go to the result."""
        import numpy

        gives_numbers = any(stream.device(key) == stream.device(series.key) for key in stream.detectors(list(motors)))
        survey = series.survey(with_sums=not gives_numbers) if not (gives_numbers and motors) else None
        if survey and survey.sums and not gives_numbers and len(survey.sums) == stream.rows:
            result.sums[series.key] = survey.sums
        title = labelled(stream, series.key)
        if motors or survey is None:
            chosen = numpy.unique(numpy.linspace(0, series.count - 1, min(_MOST_IMAGES, series.count)).round())
            images = [int(index) for index in chosen]
            rows = [series.event(index) for index in images]
            labels = [
                f"image {index + 1}" if row is None else _where(stream, motors, row)
                for index, row in zip(images, rows, strict=True)
            ]
            shown = [_smaller(series.image(index)) for index in images]
            return cls(f"{title}, {len(images)} of {series.count}", shown, labels)
        ends = {0: "first", series.count - 1: "last"} if series.count > 1 else {0: "the only one"}
        shown, labels = [_smaller(series.image(index)) for index in ends], list(ends.values())
        if series.count > 1:
            shown.append(_smaller(survey.mean))
            labels.append("mean of all" if survey.frames == series.count else f"mean of {survey.frames}")
        return cls(f"{title}, {series.count} in all", shown, labels)

    @property
    def height(self) -> float:
        """Height that it needs [inches]."""
        rows, width = math.ceil(len(self.images) / _COLUMNS), 7.0 / min(_COLUMNS, max(len(self.images), 2))
        tall, wide = self.images[0].shape[:2]
        return 0.6 + rows * (0.3 + min(width * tall / wide, 3.0))

    def draw(self, part: "SubFigure") -> None:
        """Draw it into a part of a figure."""
        part.suptitle(text(self.title), fontsize=10, parse_math=False)
        columns = min(_COLUMNS, len(self.images))
        rows = math.ceil(len(self.images) / columns)
        axes = part.subplots(rows, columns, squeeze=False).flat
        lowest, highest = _limits(self.images)
        shown: Any = None
        for one, image, label in zip(axes, self.images, self.labels, strict=False):
            if image.ndim == 3:
                one.imshow(image.astype("uint8"))
            else:
                shown = one.imshow(image, vmin=lowest, vmax=highest, interpolation="nearest")
            one.set_title(text(label), fontsize=8, parse_math=False)
        for one in part.axes:
            one.set_axis_off()
        if shown is not None:
            part.colorbar(shown, ax=part.axes, shrink=0.8)


@dataclass
class _Map:
    """A waveform over the scan, in colours."""

    key: str
    values: "numpy.ndarray"
    events: int
    stream: "Stream"
    motors: list[str]
    height = 3.0

    def draw(self, part: "SubFigure") -> None:
        """Draw it into a part of a figure."""
        axes: Axes = part.subplots()
        lowest, highest = _limits([self.values])
        end, label = self._scan()
        shown = axes.imshow(
            self.values.T,
            aspect="auto",
            origin="lower",
            vmin=lowest,
            vmax=highest,
            interpolation="nearest",
            extent=(*end, 0, self.values.shape[1]),
        )
        axes.set_xlabel(text(label), parse_math=False)
        axes.set_ylabel("value of the waveform")
        part.colorbar(shown, ax=axes).set_label(text(labelled(self.stream, self.key)), parse_math=False)

    def _scan(self) -> tuple[tuple[float, float], str]:
        """Return what the horizontal axis spans and says: the motor's positions if they are evenly spaced."""
        import numpy

        if len(self.motors) == 1 and self.events == self.stream.rows > 1:
            positions = numpy.asarray(self.stream.numbers(self.motors[0]))
            steps = numpy.diff(positions)
            if steps[0] and numpy.allclose(steps, steps[0], rtol=0.05):
                half = float(steps[0]) / 2
                ends = float(positions[0]) - half, float(positions[-1]) + half
                return ends, labelled(self.stream, self.motors[0])
        return (0.5, self.events + 0.5), "point"


def _where(stream: "Stream", motors: Sequence[str], row: int) -> str:
    """Return where the motors were at an event."""
    places = [f"{motor} {stream.numbers(motor)[row]:.8g} {unit(stream, motor)}".rstrip() for motor in motors]
    return ", ".join(places) or f"event {row + 1}"


def _smaller(image: "numpy.ndarray") -> "numpy.ndarray":
    """Return an image with sides of some hundred pixels, each the mean of those that it stands for."""
    step = max(image.shape[:2]) // _SHOWN_SIDE
    if step < 2:
        return image
    down, across = (min(step, length) for length in image.shape[:2])
    tall, wide = image.shape[0] // down, image.shape[1] // across
    parts = image[: tall * down, : wide * across].reshape(tall, down, wide, across, *image.shape[2:])
    return parts.mean(axis=(1, 3))


def _limits(images: "Sequence[numpy.ndarray]") -> tuple[float, float]:
    """Return what colours span."""
    import numpy

    values = numpy.concatenate([image[numpy.isfinite(image)].ravel() for image in images]).astype(float)
    if not len(values):
        return 0.0, 1.0
    lowest, highest = (float(limit) for limit in numpy.percentile(values, (_DARKEST, _BRIGHTEST)))
    return (lowest, highest) if lowest < highest else (float(values.min()), float(values.max()) or 1.0)
