"""A run, as far as its documents are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from bluesky_prefect.core._text import is_number


@dataclass(frozen=True)
class Run:
    """A run, as far as its documents are known: from a RunEngine, an outbox or Tiled.

    Attributes
    ----------
    uid : str
        The run's uid.
    start, stop : Mapping
        The start and stop documents as JSON values (arrays as lists, exotic objects as their ``repr``).
        `start` is empty if the start document was never seen, `stop` until the stop document has come.
    files : sequence of str
        URIs named by the run's resource documents, in order, each once. For a run in Tiled they are asked for at the
        first look at them, which raises `TiledUnavailable` or `RunNotFound` if Tiled does not know.
    """

    uid: str
    start: Mapping[str, Any]
    stop: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[str] = field(default=(), repr=False, compare=False)

    def copy(self) -> "Run":
        """Return the run with documents of its own, for code that may change them."""
        return replace(self, start=orjson.loads(orjson.dumps(self.start)), stop=orjson.loads(orjson.dumps(self.stop)))

    @property
    def scan_id(self) -> int | None:
        """Scan id, or None if the run has none that is a number."""
        scan_id = self.start.get("scan_id")
        return scan_id if type(scan_id) is int else None

    @property
    def plan_name(self) -> str | None:
        """Name of the plan, or None if unknown."""
        plan_name = self.start.get("plan_name")
        return plan_name if isinstance(plan_name, str) else None

    @property
    def exit_status(self) -> str | None:
        """``success``, ``abort`` or ``fail``; None if the stop document does not say."""
        exit_status = self.stop.get("exit_status")
        return exit_status if isinstance(exit_status, str) else None

    @property
    def time_s(self) -> float:
        """Time of its stop, or of its start without one, in seconds since the epoch; -inf if neither is known."""
        times = [document.get("time") for document in (self.stop, self.start)]
        return next((float(time) for time in times if is_number(time)), float("-inf"))
