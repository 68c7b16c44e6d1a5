"""How results and progress look: results on stdout, everything else on stderr."""

import dataclasses
import json
import shlex
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bluesky_prefect.demo import DemoResult
    from bluesky_prefect.stack import StackInfo, StackStatus


# Into a file or a pipe nothing has to be folded; 80 columns, rich's own choice, break every address.
_WIDE = 160
# A path, an error or a plan's name may hold brackets and colons: they are text, not markup.
_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}


def _out() -> Console:
    console = Console(**_PLAIN)
    return console if console.is_terminal else Console(**_PLAIN, width=_WIDE)


def _err() -> Console:
    return Console(stderr=True, **_PLAIN)


def _print(console: Console, text: str) -> None:
    # A URL that is to be copied has no line breaks.
    console.print(text, soft_wrap=True)


class Progress:
    """Shows what goes on: one line for each message, and in a terminal a spinner below them.

    Parameters
    ----------
    title : str
        What the spinner says.
    """

    def __init__(self, title: str) -> None:
        self._console = _err()
        self._status = Status(title, console=self._console) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __call__(self, message: str) -> None:
        """Show a message."""
        _print(self._console, message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()


def error(message: str) -> None:
    """Show what went wrong."""
    _print(_err(), f"Error: {message}")


def stack_info(info: "StackInfo", *, options: str = "") -> None:
    """Show where the stack is, and how to use and stop it."""
    lines = [
        "The local stack is up.",
        f"  Prefect UI   {info.prefect_ui_url}",
        f"  Tiled        {info.tiled_ui_url}   (in a browser add, once, ?api_key= and the key that is in",
        f"               {info.tiled_api_key_path})",
        f"  Files        {info.exports}",
        f"  Logs         {info.logs}",
        "",
        "To use it from a session of your own:",
        f"  export PREFECT_API_URL={info.prefect_api_url}",
        f"  export BLUESKY_PREFECT_TILED_URI={info.tiled_uri}",
        f'  export TILED_API_KEY="$(cat {shlex.quote(str(info.tiled_api_key_path))})"',
        "",
        f"To look at it:  bluesky-prefect status{options}",
        f"To stop it:     bluesky-prefect down{options}",
    ]
    _print(_out(), "\n".join(lines))


def as_json(status: "StackStatus") -> None:
    """Show the status for programs."""
    print(json.dumps({"all_up": status.all_up, **dataclasses.asdict(status)}, indent=2))  # noqa: T201


def status(status: "StackStatus") -> None:
    """Show the status for people."""
    out = _out()
    parts = _table("Part", "State", "Pid", "Where")
    for part in status.parts:
        state = "up" if part.up else f"down: {part.detail}"
        parts.add_row(part.title, state, str(part.pid or ""), part.url or "", style=None if part.up else "red")
    out.print(parts)
    counts = status.outbox
    if counts is None:
        _print(out, f"Outbox: cannot be read: {status.outbox_problem}")
    else:
        _print(out, f"\nOutbox: {counts.waiting} waiting, {counts.sent} sent, {counts.dead} dead")
    if status.flow_runs_problem:
        _print(out, f"\nFlow runs: Prefect does not tell: {status.flow_runs_problem}")
        return
    wide = out.width >= _WIDE
    runs = _table("Flow run", "State", "Created", "Ran for", *(["Link"] if wide else []))
    for run in status.flow_runs:
        # Terminals that can make the name itself a link.
        name = Text(run.name, style=f"link {run.url}" if out.is_terminal else "")
        cells = [name, run.state, _local(run.created), _seconds(run.run_s)]
        runs.add_row(*cells, *([run.url] if wide else []))
    out.print()
    if status.flow_runs:
        out.print(runs)
    else:
        out.print("No flow runs yet.")


def demo(result: "DemoResult") -> None:
    """Show what came out of the demo."""
    out = _out()
    wide = out.width >= 110
    table = _table("Scan", "Plan", "Run", *(["Flow run"] if wide else []), "State", "To running", "To done", "Files")
    for row in result.rows:
        table.add_row(
            str(row.scan_id),
            row.plan_name,
            row.run_uid[:8],
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
        _print(out, f"Scan {row.scan_id}, run {row.run_uid}")
        _print(out, f"    {row.flow_run_name or 'no flow run'}  {row.url or ''}".rstrip())
        if row.files:
            _print(out, f"    {row.files[0].parent}")
            _print(out, f"        {', '.join(file.name for file in row.files)}")
    _print(out, f"\n{result.compared}")
    for problem in result.problems:
        _print(out, f"Missing: {problem}")
    if not result.problems:
        _print(out, "Everything is there.\n")


def _local(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
