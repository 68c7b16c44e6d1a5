"""The offsets at which a group began to read partitions of Kafka, kept over its listeners' restarts."""

import hashlib
import json
from pathlib import Path
from typing import Any

from bluesky_prefect.core import write_whole


class KnownPartitions:
    """Offsets at which a group began, by topic and number of the partition, in a file of the group.

    They matter where Kafka knows no offset of the group: it was killed before it committed any, or Kafka has forgotten
    it, as it does after a week without a listener.
    """

    def __init__(self, directory: Path, group: str) -> None:
        self._path = directory / f"listen-kafka-{hashlib.sha256(group.encode()).hexdigest()[:8]}.json"
        self._group = group
        self._begun = self._read()

    def begin(self, topic: str, partition: int, offset: int) -> int:
        """Return where the group began this partition, and remember `offset` for it if that is now.

        Raises
        ------
        OSError
            If that cannot be kept.
        """
        name = f"{topic}/{partition}"
        if name not in self._begun:
            begun = {**self._begun, name: offset}
            write_whole(self._path, json.dumps({"group": self._group, "begun": begun}).encode(), private=True)
            self._begun = begun
        return self._begun[name]

    def _read(self) -> dict[str, int]:
        try:
            content: dict[str, Any] = json.loads(self._path.read_bytes())
            return {str(name): int(offset) for name, offset in content["begun"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
