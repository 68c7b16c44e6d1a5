"""Rendering of flow runs: a table, a live table, and progress while waiting."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import counted, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from bluesky_prefect.watch import Listing, Report, WorkflowStatus

_CELL = 60
_REFRESH_S = 2.0


def listing(listing: "Listing", *, failed: bool = False) -> None:
    """Show flow runs for people; `failed` says that only those that failed were asked for."""
    out = terminal.out()
    if listing.workflows:
        out.print(_table(listing, out))
    for line in _below(listing, out, failed):
        terminal.show(out, line)


def listing_as_json(listing: "Listing") -> None:
    """Show flow runs for programs."""
    terminal.dump(
        {
            "flow_runs": [
                {**dataclasses.asdict(one), "created": terminal.iso(one.created)} for one in listing.workflows
            ],
            "problems": listing.problems,
            "recorded": listing.recorded,
        }
    )


def watch(look: "Callable[[], Listing]", *, failed: bool = False) -> None:
    """Show flow runs, and keep up with them, until Ctrl-C."""
    out = terminal.out()
    hint = Text("Press Ctrl-C to end.", style="dim")
    try:
        # Not the alternate screen: what was seen last stays there.
        with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                found = look()
                table = [_table(found, out)] if found.workflows else []
                live.update(Group(*table, *map(Text, _below(found, out, failed)), hint), refresh=True)
                time.sleep(_REFRESH_S)
    except KeyboardInterrupt:
        pass


def waiting(wait: "Callable[[Report], list[WorkflowStatus]]") -> "list[WorkflowStatus]":
    """Call `wait` with what it is to report to; show a bar meanwhile, and then what came out, and return that.

    Raises what `wait` does.
    """
    out = terminal.out()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as progress:
        bar = progress.add_task("Flow runs", total=None)

        def report(ended: "Sequence[WorkflowStatus]", total: int, problem: str) -> None:
            failed = sum(one.failed for one in ended)
            what = "Prefect does not answer" if problem else f"{failed} failed" if failed else "Flow runs"
            progress.update(bar, description=what, completed=len(ended), total=total)

        ended = wait(report)
    terminal.show(out, summary(ended))
    for one in ended:
        if one.failed:
            terminal.show(out, f"{one.state}: {_name(one)}  {one.url or ''}  {one_line(one.message, 200)}".rstrip())
    return ended


def summary(ended: "Sequence[WorkflowStatus]") -> str:
    """Return in a line how they ended."""
    if not ended:
        return "No flow runs are running."
    states = Counter(one.state for one in ended)
    how = ", ".join(f"{many} {state.lower()}" for state, many in sorted(states.items()))
    return f"{counted(len(ended), 'flow run')}: {how}."


def _below(listing: "Listing", out: Console, failed: bool) -> list[str]:
    """Return what stands below the table: links, unbroken, and what went wrong, each once."""
    if not listing.workflows and not listing.problems:
        return ["None failed." if failed else "No flow runs.", *listing.recorded]
    unsent = (one for one in listing.workflows if one.flow_run_id is None and one.message)
    said = (f"{one.state}: {one_line(one.message, 300)}" for one in unsent)
    # Why something waits and why the table is short may be the same.
    news = [line for line in dict.fromkeys(said) if not any(problem in line for problem in listing.problems)]
    return [*_links(listing.workflows, out), *news, *listing.recorded, *listing.problems]


def _table(listing: "Listing", out: Console) -> "Table":
    workflows = listing.workflows
    beamlines = listing.beamline is not None or len({one.beamline for one in workflows}) > 1
    # Flow runs of several workflows on one run have one name.
    several = len({one.workflow for one in workflows}) > 1
    first = ["Time", *(["Beamline"] if beamlines else []), "Scan", "Plan"]
    table = terminal.table(*first, *(["Workflow"] if several else []), "Flow run", "State", "Seconds")
    # Eighty columns hold it then, and no name is broken.
    table.collapse_padding = several or beamlines
    for one in workflows:
        scan = "" if one.scan_id is None else str(one.scan_id)
        where = [one_line(one.beamline or "", _CELL)] if beamlines else []
        run = [terminal.local(one.created), *where, scan, one_line(one.plan_name or "", 40)]
        workflow = [one_line(one.workflow or terminal.BY_HAND, _CELL)] if several else []
        name = terminal.linked(out, _name(one), one.url)
        cells = [*run, *workflow, name, one_line(one.state, _CELL), _seconds(one)]
        table.add_row(*cells, style="red" if one.failed else None)
    return table


def _links(workflows: "Sequence[WorkflowStatus]", out: Console) -> list[str]:
    """Return the links of the newest and of what somebody has to look at; of all, where no name can be a link."""
    linked = [one for one in workflows if one.url]
    shown = [*linked[:1], *(one for one in linked[1:] if one.failed)] if out.is_terminal else linked
    return [f"{_name(one)}: {one.url}" for one in shown]


def _name(one: "WorkflowStatus") -> str:
    return one_line(one.flow_run_name or f"{one.run_uid[:8]} ({one.workflow})", _CELL)


def _seconds(one: "WorkflowStatus") -> str:
    return f"{one.run_s:.1f}" if one.run_s else ""
