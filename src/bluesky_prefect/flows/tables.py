"""A stream as CSV that reads back exactly, and that a spreadsheet cannot be tricked with."""

import csv
import io
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from bluesky_prefect.flows.texts import as_json

if TYPE_CHECKING:
    from bluesky_prefect.flows.streams import Stream

# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection").
_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_csv(stream: "Stream", file: BinaryIO) -> None:
    """Write all events of a stream, one row each, with a header.

    Numbers are written so that they read back to the very same bits; ``NaN`` is a number, an empty cell is a value
    that is not there. Short arrays are JSON. For external arrays a cell says where in Tiled they are. Text that a
    spreadsheet would take for a formula gets an apostrophe in front; so do headers.

    Parameters
    ----------
    stream : Stream
        What to write.
    file : file object
        Open for writing bytes.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\n")
    references = [array.cells(stream.rows) for array in stream.arrays]
    writer.writerow([harmless(name) for name in (*stream.table.column_names, *(a.key for a in stream.arrays))])
    done = 0
    for batch in stream.table.to_batches(max_chunksize=10_000):
        columns = [[cell(value) for value in column.to_pylist()] for column in batch.columns]
        columns += [[harmless(c) for c in cells[done : done + batch.num_rows]] for cells in references]
        writer.writerows(zip(*columns, strict=True))
        done += batch.num_rows
    text.flush()
    text.detach()


def cell(value: Any) -> str:
    """Return a value as the text of a CSV cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "NaN" if value != value else repr(value)
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, list | dict):
        return as_json(value)
    if isinstance(value, bytes):
        return harmless(value.decode("utf-8", errors="backslashreplace"))
    return str(value)


def harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _PLAIN_NUMBER.fullmatch(text) else text
