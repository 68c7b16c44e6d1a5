"""A stream as CSV that reads back exactly, and that a spreadsheet cannot be tricked with."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from bluesky_prefect.core import as_json

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import Stream

# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection").
_FORMULAS = set("=+-@")
_FIRST_OF_ALL = {"\t", "\r"}
_NEEDS_QUOTES = re.compile(r'[,"\r\n]|^\s|\s$')
_BYTES_AT_ONCE = 4 * 2**20
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_csv(stream: "Stream", file: BinaryIO, wrote: Callable[[int], None] = lambda rows: None) -> None:
    """Write all events of a stream, one row each, with a header, to a file that takes bytes.

    Numbers are written so that they read back to the very same bits; ``NaN`` is a number, an empty cell is a value that
    is not there. Short arrays are JSON. For external arrays a cell says where in Tiled they are. Text that a
    spreadsheet would take for a formula gets an apostrophe in front; so do headers. `wrote` is called with the number
    of rows that have been written since it was last.
    """
    references = [array.cells(stream.rows) for array in stream.referred]
    header = [*stream.table.column_names, *(array.key for array in stream.referred)]
    file.write(_lines([[quoted(harmless(name)) for name in header]]))
    done = 0
    for batch in stream.table.to_batches(max_chunksize=_rows_at_once(stream)):
        columns = [[cell(value) for value in column.to_pylist()] for column in batch.columns]
        columns += [[cell(text) for text in cells[done : done + batch.num_rows]] for cells in references]
        file.write(_lines(zip(*columns, strict=True)))
        done += batch.num_rows
        wrote(batch.num_rows)


def _rows_at_once(stream: "Stream") -> int:
    """Return how many rows to write at once: fewer of long ones, since every value becomes an object and a text."""
    return max(min(10_000, _BYTES_AT_ONCE * stream.rows // max(stream.table.nbytes, 1)), 1)


def _lines(rows: Iterable[Iterable[str]]) -> bytes:
    return "".join(",".join(row) + "\n" for row in rows).encode("utf-8", errors="backslashreplace")


def cell(value: Any) -> str:
    """Return a value as the text of a CSV cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "NaN" if value != value else repr(value)
    if isinstance(value, str):
        return quoted(harmless(value))
    if isinstance(value, list | dict):
        return quoted(as_json(value))
    if isinstance(value, bytes):
        return quoted(harmless(value.decode("utf-8", errors="backslashreplace")))
    return quoted(harmless(str(value)))


def quoted(text: str) -> str:
    """Return text in quotes if it needs them.

    Not with `csv.writer`: where lines end with a line feed, it leaves a carriage return bare, and readers take that
    for the end of a line.
    """
    if _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if _begins_a_formula(text) and not _PLAIN_NUMBER.fullmatch(text) else text


def _begins_a_formula(text: str) -> bool:
    # Spreadsheets drop white space and what cannot be seen, and take characters that look alike (NFKC) for the same.
    seen = (letter for letter in text if not letter.isspace() and not unicodedata.category(letter).startswith("C"))
    first = unicodedata.normalize("NFKC", next(seen, " "))[0]
    return first in _FORMULAS or text[:1] in _FIRST_OF_ALL
