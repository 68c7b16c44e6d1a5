"""Rendering of reconciliation, and of workflows started by hand."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import counted, one_line

if TYPE_CHECKING:
    from bluesky_prefect.reconciliation import Finding, Outcome, Report

_CELL = 300


def report(report: "Report") -> None:
    """Show what reconciliation found, for people."""
    out = terminal.out()
    if report.findings:
        table = terminal.table("Scan", "Plan", "Run", "Workflow", "State", "For", "Reason", "What to do")
        for finding in report.findings:
            table.add_row(*_cells(finding), style=None if finding.solved else "red")
        out.print(table)
        out.print()
    terminal.show(out, f"{counted(report.runs, 'run')}, {report.summary}.")
    if report.all_processed:
        terminal.show(out, "Nothing is left to do.")


def _cells(finding: "Finding") -> list[str]:
    return [
        str(finding.scan_id or ""),
        one_line(finding.plan_name or "", 40),
        finding.run_uid[:8],
        finding.workflow or "",
        finding.state.value,
        terminal.span(time.time() - finding.since),
        one_line(finding.reason, _CELL),
        one_line(finding.action or finding.remedy, _CELL),
    ]


def report_as_json(report: "Report") -> None:
    """Show what reconciliation found, for programs."""
    terminal.dump(
        {
            "all_processed": report.all_processed,
            "since": terminal.iso(report.since),
            "until": None if report.until is None else terminal.iso(report.until),
            "runs": report.runs,
            "states": {state.value: many for state, many in report.states.items()},
            "findings": [
                {**dataclasses.asdict(finding), "since": terminal.iso(finding.since), "remedy": finding.remedy}
                for finding in report.findings
            ],
            "remarks": list(report.remarks),
        }
    )


def with_bar(outcomes: "Iterable[Outcome]", total: int) -> "Iterator[Outcome]":
    """Yield what comes, and show in a terminal how far that is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = terminal.err()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(outcomes, total=total, description="Submitting")


def outcomes(outcomes: "Sequence[Outcome]", *, dry_run: bool) -> None:
    """Show what was done about each run, for people."""
    out = terminal.out()
    table = terminal.table("Scan", "Plan", "Run", "Workflow", "What would be done" if dry_run else "What was done")
    for outcome in outcomes:
        cells = [str(outcome.scan_id or ""), one_line(outcome.plan_name or "", 40), outcome.run_uid[:8]]
        table.add_row(*cells, outcome.workflow, one_line(outcome.text, _CELL), style="red" if outcome.refused else None)
    out.print(table)
    started = sum(outcome.started for outcome in outcomes)
    refused = sum(outcome.refused for outcome in outcomes)
    what = "would be started" if dry_run else "started"
    terminal.show(out, f"\n{started} {what}, {len(outcomes) - started - refused} left alone, {refused} refused.")


def outcomes_as_json(outcomes: "Sequence[Outcome]") -> None:
    """Show what was done about each run, for programs."""
    terminal.dump([dataclasses.asdict(outcome) for outcome in outcomes])
