"""The plot that viewers of a NeXus file open on."""

from typing import TYPE_CHECKING, Any

from bluesky_prefect.flows.export_parts._nexus_stream import ELAPSED_TIME, StreamGroup
from bluesky_prefect.flows.export_parts._nexus_values import make_group, set_attributes, write_array, write_value

if TYPE_CHECKING:
    import h5py
    import numpy

    from bluesky_prefect.tiled_api import RunData

_MAX_SIGNALS = 6


def write_plot(entry: "h5py.Group", name: str, run: "RunData", streams: list[StreamGroup]) -> None:
    """Write a group with the detectors against the scanned motor, on the grid of two, or against time.

    Nothing is written where nothing can be plotted. Unless there is a grid, values are links to those of the stream.
    """
    stream, motors = run.scanned()
    [written] = [one for one in streams if one.stream is stream] or [None]
    signals = written.signals(motors)[:_MAX_SIGNALS] if written else []
    if not written or not signals:
        return
    data = make_group(entry, name, "NXdata")
    write_value(data, "title", f"{run.label}, run {run.uid}")
    # Images are linked to, and stay where they are.
    can_be_reordered = set(signals) <= set(written.stream.numeric)
    grid = _Grid.of(run, written, motors) if len(motors) == 2 and can_be_reordered else None
    if grid:
        axes = grid.write(data, written, signals)
    else:
        for key in (*signals, *motors):
            data[written.names[key]] = _link(written.path(key))
        # With two of them, the points are scattered over a plane.
        axes = [written.names[key] for key in reversed(motors)] or [_write_axis(data, written)]
        axes += ["."] * (len(written.shapes[signals[0]]) - len(axes))
    names = [written.names[key] for key in signals]
    set_attributes(data, signal=names[0], axes=axes, auxiliary_signals=names[1:] or None)
    for dimension, axis in enumerate(axes):
        if axis != ".":
            set_attributes(data, **{f"{axis}_indices": dimension if grid else 0})
    set_attributes(entry, default=name)


class _Grid:
    """Points on a grid: which of them comes where, and the positions along each side."""

    def __init__(self, order: "numpy.ndarray", motors: list[str], positions: "list[numpy.ndarray]") -> None:
        self._order = order
        self._motors = motors
        self._positions = positions

    @classmethod
    def of(cls, run: "RunData", written: StreamGroup, motors: list[str]) -> "_Grid | None":
        """Return the grid of a run that says it had one, if the motors were where that says.

        Lines may have been taken back and forth. Of a run that ended early, it has the lines that were begun.
        """
        import numpy

        start: Any = run.start
        shape, snaking = start.get("shape"), start.get("snaking")
        if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(one, int) and one > 1 for one in shape)):
            return None
        lines = -(-written.stream.rows // shape[1])
        if not 1 < lines <= shape[0]:
            return None
        order = numpy.arange(lines * shape[1]).reshape(lines, shape[1])
        if isinstance(snaking, list) and len(snaking) == 2 and snaking[1]:
            order[1::2] = order[1::2, ::-1]
        slow, fast = (_in_order(_values(written, motor), order) for motor in motors)
        if any(numpy.isnan(one).sum() != order.size - written.stream.rows for one in (slow, fast)):
            return None
        positions = [numpy.nanmean(slow, axis=1), numpy.nanmean(fast, axis=0)]
        regular = _is_near(slow, positions[0][:, None]) and _is_near(fast, positions[1][None, :])
        return cls(order, motors, positions) if regular else None

    def write(self, data: "h5py.Group", written: StreamGroup, signals: list[str]) -> list[str]:
        """Write signals and positions; return the names of these."""
        values = {key: _in_order(_values(written, key), self._order) for key in signals}
        for key, array in (*values.items(), *zip(self._motors, self._positions, strict=True)):
            name = written.names[key]
            write_array(data, name, array).attrs.update(written.group[name].attrs)
        return [written.names[motor] for motor in self._motors]


def _is_near(positions: "numpy.ndarray", axis: "numpy.ndarray") -> bool:
    """Tell whether an axis goes one way, and no position is nearer to another point of it than to its own."""
    import numpy

    steps = numpy.diff(axis.reshape(-1))
    one_way = bool((steps > 0).all() or (steps < 0).all())
    return one_way and not (abs(positions - axis) > abs(steps).min() / 2).any()


def _in_order(values: "numpy.ndarray", order: "numpy.ndarray") -> "numpy.ndarray":
    """Return values in the order of a grid, NaN where there are none."""
    import numpy

    if missing := order.size - len(values):
        values = numpy.append(values.astype(float), numpy.full(missing, numpy.nan))
    return values[order]


def _values(written: StreamGroup, key: str) -> "numpy.ndarray":
    dataset: Any = written.group[written.names[key]]
    return dataset[()]


def _write_axis(data: "h5py.Group", written: StreamGroup) -> str:
    """Write the time since the first point, or what numbers the frames of a fly scan; return its name, "." if none."""
    columns = written.stream.table.column_names
    if not written.stream.has_events and "frame" in columns:
        data[written.names["frame"]] = _link(written.path("frame"))
        return written.names["frame"]
    if "time" not in columns:
        return "."
    times = _values(written, "time")
    if times.dtype.kind not in "iuf":
        return "."
    dataset = write_array(data, ELAPSED_TIME, times - times[0])
    set_attributes(dataset, units="s", long_name="time since the first point (s)")
    return ELAPSED_TIME


def _link(path: str) -> Any:
    import h5py

    return h5py.SoftLink(path)
