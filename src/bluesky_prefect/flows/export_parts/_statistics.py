"""Statistics of the columns of a run's streams."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

    from bluesky_prefect.tiled_api import RunData, Stream

# A page of a browser still shows so many.
MAX_COLUMNS = 500


def column_statistics(run: "RunData") -> list[dict[str, Any]]:
    """Return one row for each column of each stream, at most `MAX_COLUMNS`.

    Returns
    -------
    list of dict
        ``stream``, ``column``, ``type``, ``points``, ``NaN`` (how many values are none), ``min``, ``max``, ``mean``,
        ``std`` (of all points, not of a sample). What a column has not is None: text has no mean, and a column of NaN
        no minimum. Infinities are text, since JSON has none.
    """
    rows = [row for stream in run.streams for row in _stream(stream)]
    return rows[:MAX_COLUMNS]


def _stream(stream: "Stream") -> list[dict[str, Any]]:
    table = stream.table
    columns = [_column(stream.name, name, table.column(index)) for index, name in enumerate(table.column_names)]
    arrays = [
        _row(stream.name, array.key, f"{array.dtype} {list(array.shape)}", array.shape[0] if array.shape else 0)
        for array in stream.referred
    ]
    return columns + arrays


def _row(stream: str, column: str, kind: str, points: int, **numbers: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("NaN", "min", "max", "mean", "std"))
    return {"stream": stream, "column": column, "type": kind, "points": points, **empty, **numbers}


def _column(stream: str, name: str, column: "pyarrow.ChunkedArray") -> dict[str, Any]:
    import pyarrow
    from pyarrow import compute, types

    kind = column.type
    if types.is_boolean(kind):
        column = column.cast(pyarrow.int8())
    elif types.is_float16(kind):
        column = column.cast(pyarrow.float32())
    elif not (types.is_integer(kind) or types.is_floating(kind)):
        return _row(stream, name, str(kind), len(column))
    known = column.drop_null()
    if types.is_floating(known.type):
        known = known.filter(compute.invert(compute.is_nan(known)))  # pyright: ignore[reportAttributeAccessIssue]
    numbers: dict[str, Any] = {"NaN": len(column) - len(known)}
    if len(known):
        numbers |= compute.min_max(known).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        numbers["mean"] = compute.mean(known).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        numbers["std"] = compute.stddev(known).as_py()  # pyright: ignore[reportAttributeAccessIssue]
    return _row(stream, name, str(kind), len(column), **{key: _json(value) for key, value in numbers.items()})


def _json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
