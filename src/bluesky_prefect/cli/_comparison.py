"""Exported CSV files against what Tiled holds, value by value."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.flows import OWNER

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass
class Comparison:
    """The amount that was compared, and the differences."""

    files: int = 0
    values: int = 0
    differences: list[str] = field(default_factory=list)


def run_folder(exports: Path, run_uid: str) -> Path | None:
    """Return the folder that holds a run's exported files, known by the uid that is written in it."""
    for owner in exports.rglob(OWNER):
        if owner.read_text().strip() == run_uid:
            return owner.parent
    return None


def compare_run(run: Any, folder: Path, comparison: Comparison) -> None:
    """Compare each stream of a run with its CSV file, exactly: a bit lost on the way is a difference.

    The run is as Tiled's client gives it; the comparison takes the results.
    """
    for stream in run:
        # A stream may be called "a" beside another "b_a": the shortest name that ends so is its own.
        candidates = sorted(folder.glob(f"*_{stream}.csv"), key=lambda path: len(path.name))
        if not candidates:
            comparison.differences.append(f"stream {stream!r} has no CSV file in {folder}")
            continue
        # Not pandas: how it reads numbers has changed from version to version.
        with candidates[0].open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        comparison.files += 1
        # The parts of a stream as they are stored; the stream itself shows them as one.
        for part in run[stream].base.values():
            if part.structure_family == "table":
                _compare(part.read(), header, rows, candidates[0], comparison)


def _compare(table: "DataFrame", header: list[str], rows: list[list[str]], path: Path, comparison: Comparison) -> None:
    if len(table) != len(rows):
        comparison.differences.append(f"{path} has {len(rows)} rows, Tiled {len(table)}")
        return
    for name in table.columns:
        if name not in header:
            comparison.differences.append(f"{path} lacks the column {name!r}")
            continue
        index = header.index(name)
        for number, (value, row) in enumerate(zip(table[name].tolist(), rows, strict=True), start=1):
            if not _same(value, row[index]):
                comparison.differences.append(f"{path}, column {name!r}, row {number}: {row[index]!r}, Tiled {value!r}")
                break
        else:
            comparison.values += len(table)


def _same(value: Any, cell: str) -> bool:
    if isinstance(value, float):
        # Python prints what reads back to the same bits, the sign of zero too. An empty cell is a missing value,
        # which a data frame shows as NaN.
        return repr(float(cell or "nan")) == repr(value)
    # Text that a spreadsheet would take for a formula has an apostrophe in front.
    return cell in (str(value), f"'{value}")
