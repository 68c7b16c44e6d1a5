"""Output of all commands: results on stdout, everything else on stderr."""

import json
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table

# Into a file or a pipe nothing has to be folded; 80 columns, rich's own choice, break every address.
WIDE = 160
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


class Progress:
    """Shows what goes on: one line for each message, and in a terminal a spinner below them.

    Parameters
    ----------
    title : str
        What the spinner says.
    """

    def __init__(self, title: str) -> None:
        self._console = err()
        self._status = Status(title, console=self._console) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __call__(self, message: str) -> None:
        """Show a message."""
        show(self._console, message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()


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
