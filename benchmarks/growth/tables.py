"""Tables of times, each with its ratio to the smallest size of the same run."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table


def median_s(what: Callable[[], Any], repeats: int) -> float:
    """Return the median time, in seconds, that something takes; the first time does not count."""
    what()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def growth_table(title: str, sizes: Sequence[str], figures: Sequence[Mapping[str, float]], *more: str) -> Table:
    """Return a table with a row for each thing that was measured and a column for each size.

    Parameters
    ----------
    title : str
        What was measured.
    sizes : sequence of str
        The columns.
    figures : sequence of mapping
        For each size the seconds that each thing took. What was not measured at a size is left out there.
    *more : str
        Rows of which the figures are bytes.
    """
    table = Table("", *sizes, title=title)
    for name in dict.fromkeys(name for one in figures for name in one):
        cells, base = [], None
        for one in figures:
            if (value := one.get(name)) is None:
                cells.append("")
                continue
            shown = f"{value / 1e6:,.1f} MB" if name in more else f"{1000 * value:,.2f} ms"
            cells.append(shown if base is None else f"{shown} ({value / base:.2g} x)")
            base = base or value
        table.add_row(name, *cells)
    return table
