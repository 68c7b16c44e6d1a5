"""Checks of a run's stream against its documents."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bluesky_prefect.core import counted
from bluesky_prefect.flows.export_parts._statistics import column_statistics
from bluesky_prefect.tiled_api import BOOKKEEPING

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import RunData, Stream


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: in which stream, what it was, and what came of it.

    ``broken`` is data that are not what was promised; ``warning`` is what somebody should look at.
    """

    stream: str
    what: str
    result: Literal["passed", "warning", "broken"] = "passed"
    detail: str = ""

    @property
    def told(self) -> str:
        """The problem in one line."""
        return f"{self.stream}, {self.what}: {self.detail}"


def stream_checks(run: "RunData", stream: "Stream") -> list[Check]:
    """Check the table of a stream against what its run's documents say."""
    return [
        _points(run, stream),
        *_sequence(stream),
        *_times(stream),
        *_nowhere(stream),
        *_shapes(stream),
        *_columns(run, stream),
    ]


def missing_streams(run: "RunData") -> list[Check]:
    """Return a broken check for each stream that had events and is not there."""
    there = {stream.name for stream in run.streams}
    promised = _promised(run)
    return [
        Check(name, "points", "broken", f"none of {counted(points, 'point')} is there")
        for name, points in promised.items()
        if name not in there and points
    ]


def _promised(run: "RunData") -> dict[str, int]:
    said = run.stop.get("num_events")
    return {str(name): int(points) for name, points in said.items()} if isinstance(said, dict) else {}


def _points(run: "RunData", stream: "Stream") -> Check:
    if not isinstance(run.stop.get("num_events"), dict):
        return Check(stream.name, "points", "warning", "the stop document does not say how many there were")
    promised = _promised(run).get(stream.name, 0)
    # A plan that goes back to a checkpoint writes points again; they count once.
    seen = len(set(_values(stream, "seq_num"))) if "seq_num" in stream.table.column_names else stream.rows
    if seen == promised:
        return Check(stream.name, "points", detail=counted(seen, "point"))
    return Check(stream.name, "points", "broken", f"{seen} of {counted(promised, 'point')}")


def _sequence(stream: "Stream") -> Iterator[Check]:
    if "seq_num" not in stream.table.column_names:
        return
    numbers = _values(stream, "seq_num")
    gaps = sorted(set(range(1, max(filter(None, numbers), default=0) + 1)) - set(numbers))
    if None in numbers or gaps:
        which = f"{gaps[0]} is missing" if gaps else "one is missing"
        more = f", and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        yield Check(stream.name, "sequence numbers", "broken", which + more)
    elif len(set(numbers)) < len(numbers):
        yield Check(stream.name, "sequence numbers", "warning", "some come twice: the plan went back, or was replayed")
    elif numbers != sorted(numbers):
        yield Check(stream.name, "sequence numbers", "broken", "they are not ascending")
    else:
        yield Check(stream.name, "sequence numbers", detail="complete and ascending")


def _times(stream: "Stream") -> Iterator[Check]:
    if "time" not in stream.table.column_names:
        return
    times = _values(stream, "time")
    if any(time is None or math.isnan(time) for time in times):
        yield Check(stream.name, "times", "broken", "some are missing")
    elif times != sorted(times):
        yield Check(stream.name, "times", "broken", "they are not ascending: was a clock set back?")
    else:
        yield Check(stream.name, "times", detail="complete and ascending")


def _nowhere(stream: "Stream") -> Iterator[Check]:
    """Find what is promised to be in files, and is in none."""
    data_keys: Any = stream.metadata.get("data_keys")
    there = {*stream.table.column_names, *(array.key for array in stream.arrays)}
    for key in data_keys if isinstance(data_keys, Mapping) and stream.rows else ():
        if stream.about(key).get("external") and key not in there:
            yield Check(stream.name, f"{key}: files", "broken", "none of it is there")


def _shapes(stream: "Stream") -> Iterator[Check]:
    """Compare each external array's shape with what the descriptor promised of each event."""
    for array in stream.arrays:
        each: Any = stream.about(array.key).get("shape")
        if not isinstance(each, list) or not all(isinstance(length, int) and length > 0 for length in each):
            continue
        rows = stream.rows if stream.has_events or not array.shape else array.shape[0]
        promised, held = math.prod(each) * rows, math.prod(array.shape)
        shape = f"shape {list(array.shape)}"
        if held == promised:
            yield Check(stream.name, f"{array.key}: shape", detail=shape)
        else:
            said = f"{shape} holds {held} values, and {counted(rows, 'point')} of {each} {promised}"
            yield Check(stream.name, f"{array.key}: shape", "broken", said)


def _columns(run: "RunData", stream: "Stream") -> Iterator[Check]:
    """Warn of columns that hold nothing, and of those that did not change while the plan moved a motor."""
    moved, motors = run.scanned()
    interesting = {*motors, *stream.hinted} if moved is stream and motors else set()
    table = [row for row in column_statistics(run) if row["stream"] == stream.name]
    suspicious = 0
    for row in table:
        name = row["column"]
        if name in BOOKKEEPING or row["NaN"] is None or not row["points"]:
            continue
        if row["NaN"] == row["points"]:
            yield Check(stream.name, f"{name}: values", "warning", "all NaN")
        elif name in interesting and row["points"] > 1 and row["min"] == row["max"]:
            yield Check(stream.name, f"{name}: values", "warning", f"constant ({row['min']}) while a motor moved")
        else:
            continue
        suspicious += 1
    if not suspicious:
        yield Check(stream.name, "values", detail=counted(len(table), "column"))


def _values(stream: "Stream", name: str) -> list[Any]:
    return stream.table[name].to_pylist()
