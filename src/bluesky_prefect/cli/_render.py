"""Rendering of results (stdout) and progress (stderr)."""

import dataclasses
import os
import shlex
from datetime import datetime
from typing import TYPE_CHECKING

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bluesky_prefect.cli._demo import DemoResult
    from bluesky_prefect.stack import FlowRunStatus, StackInfo, StackStatus


def stack_info(info: "StackInfo", *, sign_in: str, options: str = "") -> None:
    """Show where the stack is, and how to use and stop it; `sign_in` is a link for a browser."""
    from bluesky_prefect.prefect_api import runs_url
    from bluesky_prefect.stack import without_proxy  # psutil comes with the local stack

    lines = [
        "The local stack is up.",
        f"  Prefect UI   {sign_in}",
        f"               (signs one browser in, once, within ten minutes; after that: {runs_url(info.prefect_ui_url)})",
        f"  Tiled        {info.tiled_uri}   (to sign a browser in: bluesky-prefect ui --tiled{options})",
        *(f"  {'' if at else 'Tiled reads':<12} {directory}" for at, directory in enumerate(info.readable)),
        f"  Files        {info.exports}",
        f"  Logs         {info.logs}",
        "",
        "To use it from a session of your own:",
        f"  export PREFECT_API_URL={info.prefect_api_url}",
        f'  export PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(info.prefect_auth_string_path))})"',
        f"  export BLUESKY_PREFECT_TILED_URI={info.tiled_uri}",
        f'  export TILED_API_KEY="$(cat {shlex.quote(str(info.tiled_api_key_path))})"',
        *(f"  export {name}={shlex.quote(value)}" for name, value in without_proxy(dict(os.environ)).items()),
        "",
        f"To look at it:  bluesky-prefect status{options}",
        f"To stop it:     bluesky-prefect down{options}",
    ]
    terminal.show(terminal.out(), "\n".join(lines))


def as_json(status: "StackStatus") -> None:
    """Show the status for programs."""
    terminal.dump({"all_up": status.all_up, **dataclasses.asdict(status)})


def status(status: "StackStatus", *, sign_in: str = "") -> None:
    """Show the status for people, with a link that signs a browser in if there is one."""
    out = terminal.out()
    parts = terminal.table("Part", "State", "Pid", "Where")
    for part in status.parts:
        state = part.detail or "up" if part.up else f"down: {part.detail}"
        where = f"{part.url or ''}{f'  ({part.named_by})' if part.named_by else ''}"
        parts.add_row(part.title, state, str(part.pid or ""), where, style=None if part.up else "red")
    out.print(parts)
    if sign_in:
        terminal.show(out, f"\nTo sign a browser in to Prefect's UI, once, within ten minutes: {sign_in}")
    out.print()
    if status.prefect_database:
        terminal.show(out, f"Prefect's database: {status.prefect_database}")
    if status.readable:
        terminal.show(out, f"Tiled reads detectors' files in: {', '.join(status.readable)}")
    if status.shared:
        terminal.show(out, f"State directory: shared with {status.shared}")
    if status.disk_problem:
        terminal.show(out, status.disk_problem)
    refused = f", {status.journals_refused} refused (see 'journal list')" if status.journals_refused else ""
    terminal.show(out, f"Journals: {counted(status.journals_waiting, 'run')} on the way to Tiled{refused}")
    counts = status.outbox
    if counts is None:
        terminal.show(out, f"Outbox: cannot be read: {status.outbox_problem}")
    else:
        terminal.show(out, f"Outbox: {counts.waiting} waiting, {counts.sent} sent, {counts.dead} dead")
    if status.flow_runs_problem:
        terminal.show(out, f"\nFlow runs: unknown, {status.flow_runs_problem}")
        return
    out.print()
    if status.flow_runs:
        _flow_runs(status.flow_runs)
    else:
        out.print("No flow runs yet.")


def _flow_runs(flow_runs: "Sequence[FlowRunStatus]") -> None:
    out = terminal.out()
    # Flow runs of several workflows on one run have one name.
    several = len({run.workflow for run in flow_runs}) > 1
    runs = terminal.table(*(["Workflow"] if several else []), "Flow run", "State", "Created", "Ran for")
    runs.collapse_padding = several
    for run in flow_runs:
        workflow = [run.workflow or terminal.BY_HAND] if several else []
        name = terminal.linked(out, run.name, run.url)
        runs.add_row(*workflow, name, run.state, _local(run.created), _seconds(run.run_s))
    out.print(runs)
    for run in flow_runs[: 1 if out.is_terminal else None]:
        told_apart = f" ({run.workflow})" if several and run.workflow else ""
        terminal.show(out, f"{run.name}{told_apart}: {run.url}")


def demo(result: "DemoResult") -> None:
    """Show what came out of the demo."""
    out = terminal.out()
    wide = out.width >= 110
    table = terminal.table(
        "Scan", "Plan", "Run", *(["Flow run"] if wide else []), "State", "To running", "To done", "Files"
    )
    for row in result.rows:
        table.add_row(
            str(row.run.scan_id),
            row.run.plan_name or "",
            row.run.uid[:8],
            *([row.flow_run_name or ""] if wide else []),
            row.state,
            _seconds(row.running_after_s),
            _seconds(row.done_after_s),
            str(len(row.files)),
            style=None if row.state == "Completed" else "red",
        )
    out.print()
    out.print(table)
    out.print("(Seconds are from the run's stop document.)\n")
    for row in result.rows:
        terminal.show(out, f"Scan {row.run.scan_id}, run {row.run.uid}")
        terminal.show(out, f"    {row.flow_run_name or 'no flow run'}  {row.url or ''}".rstrip())
        if row.files:
            terminal.show(out, f"    {row.files[0].parent}")
            terminal.show(out, f"        {', '.join(file.name for file in row.files)}")
    terminal.show(out, f"\n{result.compared}")
    for problem in result.problems:
        terminal.show(out, f"Missing: {problem}")
    if not result.problems:
        terminal.show(out, "Everything is there.\n")


def _local(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
