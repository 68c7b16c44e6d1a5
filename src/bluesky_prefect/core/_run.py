"""A finished run, as routing sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson


@dataclass(frozen=True)
class Run:
    """A run whose stop document has arrived.

    Attributes
    ----------
    uid : str
        The run's uid.
    start, stop : Mapping
        The start and stop documents as JSON values (arrays as lists, exotic objects as their ``repr``).
        `start` is empty if the start document was never seen.
    files : sequence of str
        URIs named by the run's resource documents, in order, each once.
    """

    uid: str
    start: Mapping[str, Any]
    stop: Mapping[str, Any]
    files: Sequence[str] = field(default=())

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
