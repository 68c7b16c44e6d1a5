"""Which runs stopped, told by nothing of what is being tested.

An empty file per run, named by its uid: neither a full disk nor a file-size limit keeps one from being made, and what
has been made outlives a killed process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ledger:
    """The stop documents that an acquisition has seen.

    Parameters
    ----------
    directory : Path
        Where the files go; shared by all acquisition processes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("seen", "promised"):
            (directory / name).mkdir(parents=True, exist_ok=True)

    def seen(self) -> set[str]:
        """Return the runs whose stop document came: some may have been killed before anything was promised."""
        return self._uids("seen")

    def promised(self) -> set[str]:
        """Return the runs for which the callback has returned from `stop`: each of them is to be processed."""
        return self._uids("promised")

    def recorder(self, name: str) -> Callable[[str, dict[str, Any]], None]:
        """Return a RunEngine callback that notes stop documents as ``seen`` or ``promised``."""

        def record(kind: str, document: dict[str, Any]) -> None:
            if kind == "stop":
                (self._directory / name / document["run_start"]).touch()

        return record

    def _uids(self, name: str) -> set[str]:
        return {path.name for path in (self._directory / name).iterdir()}
