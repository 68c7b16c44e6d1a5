"""Output of all commands: results on stdout, everything else on stderr."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

# Into a file or a pipe nothing has to be folded; 80 columns, rich's own choice, break every address.
WIDE = 160
BY_HAND = "by hand"
"""In place of the workflow of a flow run that was made for none."""
# A path, an error or a plan's name may hold brackets and colons: they are text, not markup.
_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}


def out() -> Console:
    """Return the console of results."""
    console = Console(**_PLAIN)
    return console if console.is_terminal else Console(**_PLAIN, width=WIDE)


def err() -> Console:
    """Return the console of everything else."""
    return Console(stderr=True, **_PLAIN)


def show(console: Console, text: str) -> None:
    """Show text as it is."""
    # A URL that is to be copied has no line breaks.
    console.print(text, soft_wrap=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show what goes on: one line for each message that is reported, and in a terminal a spinner below them."""
    console = err()
    with Status(title, console=console) if console.is_terminal else nullcontext():
        yield lambda message: show(console, message)


def note(message: str) -> None:
    """Show what people should know, beside the results."""
    show(err(), message)


def error(message: str) -> None:
    """Show what went wrong."""
    show(err(), f"Error: {message}")


def table(*columns: str) -> Table:
    """Return a table without lines."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def linked(console: Console, text: str, url: str | None) -> Text:
    """Return text that is a link, if the console is a terminal: those that know no links show the text alone."""
    return Text(text, style=f"link {url}" if url and console.is_terminal else "")


def local(time_s: float) -> str:
    """Return a time, in seconds since the epoch, as people here read it: without the date if that is today's."""
    moment, today = datetime.fromtimestamp(time_s).astimezone(), datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """Return how long something lasts, as people read it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def iso(time_s: float) -> str:
    """Return a time, in seconds since the epoch, for programs."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def dump(content: Any) -> None:
    """Print JSON, for programs."""
    print(json.dumps(content, indent=2))  # noqa: T201
