"""One thing that was looked at, and what was found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    subject, name : str
        What it belongs to, and what it is; programs go by these.
    state : {'ok', 'warning', 'problem'}
        A warning may become a problem, or is one for somebody; with a problem, runs do not become what they should.
    found : str
        What was found, in one line.
    remedy : str
        What to do about it; empty if nothing has to be done.
    """

    subject: str
    name: str
    state: State
    found: str
    remedy: str = ""


class Findings(list[Finding]):
    """Findings about one subject, in order."""

    def __init__(self, subject: str) -> None:
        super().__init__()
        self._subject = subject

    def ok(self, name: str, found: str) -> None:
        """Note what is as it should be."""
        self.append(Finding(self._subject, name, "ok", found))

    def warning(self, name: str, found: str, remedy: str) -> None:
        """Note what may become a problem."""
        self.append(Finding(self._subject, name, "warning", found, remedy))

    def problem(self, name: str, found: str, remedy: str = "") -> None:
        """Note a problem; an error's own message names its remedy."""
        self.append(Finding(self._subject, name, "problem", found, remedy))
