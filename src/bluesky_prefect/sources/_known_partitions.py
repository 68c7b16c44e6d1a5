"""The offsets at which a group goes on to read partitions of Kafka, kept over its listeners' restarts."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bluesky_prefect.core import write_whole


class KnownPartitions:
    """Offsets at which a group began, or to which it has come, by topic and partition, in a file of the group.

    They matter where Kafka knows no offset of the group: it was killed before it committed any, or Kafka has forgotten
    it, as it does after a week without a listener. By then the outbox, and Prefect, may know no more of the runs that
    were read before.

    Attributes
    ----------
    topics : set of str
        The topics that the group has listened to, as they were asked for: a partition of theirs that is not known here
        came later.
    """

    def __init__(self, directory: Path, group: str) -> None:
        self._path = directory / f"listen-kafka-{hashlib.sha256(group.encode()).hexdigest()[:8]}.json"
        self._group = group
        self.topics: frozenset[str] = frozenset()
        self._begun: dict[str, int] = {}
        self._read()

    def listen(self, topics: Iterable[str], ends: Mapping[tuple[str, int], int]) -> None:
        """Take note that the group listens to topics whose partitions end there now, by topic and number.

        Raises
        ------
        OSError
            If that cannot be kept.
        """
        begun = {f"{topic}/{partition}": offset for (topic, partition), offset in ends.items()}
        self._keep(self.topics.union(topics), {**begun, **self._begun})

    def reached(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Take note of how far the group has come, by topic and number of the partition; raises `OSError` likewise."""
        reached = {f"{topic}/{partition}": offset for (topic, partition), offset in offsets.items()}
        if not reached.items() <= self._begun.items():
            self._keep(self.topics, {**self._begun, **reached})

    def begin(self, topic: str, partition: int, offset: int) -> int:
        """Return where the group goes on in this partition, and remember `offset` for it if it is new.

        Raises
        ------
        OSError
            If that cannot be kept.
        """
        name = f"{topic}/{partition}"
        if name not in self._begun:
            self._keep(self.topics, {**self._begun, name: offset})
        return self._begun[name]

    def _keep(self, topics: frozenset[str], begun: dict[str, int]) -> None:
        content = {"group": self._group, "topics": sorted(topics), "begun": begun}
        write_whole(self._path, json.dumps(content).encode(), private=True)
        self.topics, self._begun = topics, begun

    def _read(self) -> None:
        try:
            content: dict[str, Any] = json.loads(self._path.read_bytes())
            begun = {str(name): int(offset) for name, offset in content["begun"].items()}
            self.topics, self._begun = frozenset(map(str, content.get("topics", ()))), begun
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
