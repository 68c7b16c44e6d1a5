"""The picture of a run's images and waveforms."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import BlueskyPrefectError, error_line
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
    panels: list[Callable[[SubFigure], None]] = []
    heights: list[float] = []
    for series in ImageSeries.of_stream(stream)[:_MOST_KEYS]:
        try:
            sheet = _Sheet.of(series, stream, motors, result)
        except (BlueskyPrefectError, ValueError, TypeError, OSError) as error:
            result.problems.append(f"{stream.name}, {series.key}: no picture: {error_line(error)}")
        else:
            panels.append(sheet.draw)
            heights.append(sheet.height)
    for key, values in list(waveforms(stream).items())[: _MOST_KEYS - len(panels)]:
        panels.append(_Map(key, values, stream, motors).draw)
        heights.append(3.0)
    if panels:
        figure = new_figure(f"{run.label}  {run.uid[:8]}")
        figure.set_size_inches(8, sum(heights) + 0.5)
        parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, part in zip(panels, parts, strict=True):
            panel(part)
        result.png = draw(figure)
    return result


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
            labels = [_where(stream, motors, series.event(index)) for index in images]
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
    stream: "Stream"
    motors: list[str]

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

        if len(self.motors) == 1 and len(self.values) == self.stream.rows > 1:
            positions = numpy.asarray(self.stream.numbers(self.motors[0]))
            steps = numpy.diff(positions)
            if steps[0] and numpy.allclose(steps, steps[0], rtol=0.05):
                half = float(steps[0]) / 2
                ends = float(positions[0]) - half, float(positions[-1]) + half
                return ends, labelled(self.stream, self.motors[0])
        return (0.5, self.stream.rows + 0.5), "point"


def _where(stream: "Stream", motors: Sequence[str], row: int) -> str:
    """Return where the motors were at an event."""
    places = [f"{motor} {stream.numbers(motor)[row]:.4g} {unit(stream, motor)}".rstrip() for motor in motors]
    return ", ".join(places) or f"event {row + 1}"


def _smaller(image: "numpy.ndarray") -> "numpy.ndarray":
    """Return an image with sides of some hundred pixels, each the mean of those that it stands for."""
    step = max(image.shape[:2]) // _SHOWN_SIDE
    if step < 2:
        return image
    tall, wide = (length // step for length in image.shape[:2])
    parts = image[: tall * step, : wide * step].reshape(tall, step, wide, step, *image.shape[2:])
    return parts.mean(axis=(1, 3))


def _limits(images: "Sequence[numpy.ndarray]") -> tuple[float, float]:
    """Return what colours span."""
    import numpy

    values = numpy.concatenate([image[numpy.isfinite(image)].ravel() for image in images])
    if not len(values):
        return 0.0, 1.0
    lowest, highest = (float(limit) for limit in numpy.percentile(values, (_DARKEST, _BRIGHTEST)))
    return (lowest, highest) if lowest < highest else (float(values.min()), float(values.max()) or 1.0)
