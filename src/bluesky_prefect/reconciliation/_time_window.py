"""A stretch of time, as people write it: the runs in it are checked."""

import re
from dataclasses import dataclass
from datetime import datetime

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.reconciliation._report import Finding

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


@dataclass(frozen=True)
class TimeWindow:
    """The runs to check.

    Attributes
    ----------
    since : float
        Runs that stopped from then on, in seconds since the epoch.
    until : float, optional
        Runs that stopped before then. Without it there is no end: the clock of a run's machine may be ahead.
    plan : str, optional
        Runs of this plan only.
    scan_id : int, optional
        Runs with this scan id only.
    """

    since: float
    until: float | None = None
    plan: str | None = None
    scan_id: int | None = None

    def covers(self, time_s: float) -> bool:
        """Return whether a time, in seconds since the epoch, lies in the window."""
        return self.since <= time_s and (self.until is None or time_s < self.until)

    def wants(self, finding: Finding) -> bool:
        """Return whether a finding is of the plan and the scan id looked at, whenever it was."""
        return self.plan in (None, finding.plan_name) and self.scan_id in (None, finding.scan_id)

    def holds(self, finding: Finding) -> bool:
        """Return whether a finding belongs to the runs looked at."""
        return self.covers(finding.since) and self.wants(finding)


def parse_moment(text: str, now: float) -> float:
    """Return a moment in seconds since the epoch.

    Parameters
    ----------
    text : str
        How long ago (``90m``, ``24h``, ``7d``, ``2w``), or a date or time as ISO 8601 has it; local time, unless it
        says otherwise.
    now : float
        The present time, in seconds since the epoch.

    Raises
    ------
    ConfigurationError
        If it is neither.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return now - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"{text!r} is not a time: write {_suggested(text)}7d, or 2026-01-31 (a time too: 2026-01-31T14:00)."
        ) from error


def _suggested(text: str) -> str:
    """Return a number that lacks its unit in hours, and else the usual example."""
    number = text.strip()
    return f"{number if number.isdecimal() else 24}h, "


def moment(time_s: float) -> str:
    """Return a time as people read it, local."""
    try:
        return f"{datetime.fromtimestamp(time_s):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a document may say anything: milliseconds, say
        return "an impossible time"
