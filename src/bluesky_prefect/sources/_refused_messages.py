"""Messages that hold no document that can be used, set aside for a person to look at."""

import hashlib
import json
import logging
import stat
import time
from contextlib import suppress
from pathlib import Path

from bluesky_prefect.core import one_line, private_directory, write_whole

logger = logging.getLogger(__name__)

_TELL_EVERY_S = 3600.0
_MOST_OF_A_VALUE = 200


class RefusedMessages:
    """Messages set aside in a directory: each as it came, beside a file that says why and where it came from.

    The directory is made for the first one. Of a message it holds the first `MOST_OF_ONE` bytes, and in all `MOST`
    messages and `MOST_BYTES` bytes: what comes then is told of once an hour, and not kept.
    """

    MOST = 1000
    MOST_BYTES = 100_000_000
    MOST_OF_ONE = 1_000_000

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._told: dict[str, float] = {}

    def put(self, content: bytes, reason: str, **origin: object) -> None:
        """Set a message aside, and log so; the same one twice is there once.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        private_directory(self._directory)
        path = self._directory / f"{hashlib.sha256(content).hexdigest()[:16]}.message"
        kept, reason = content[: self.MOST_OF_ONE], one_line(reason)
        place = {key: value if isinstance(value, int) else _short(value) for key, value in origin.items()}
        where = " ".join(f"{key} {value}" for key, value in place.items())
        present = _sizes(self._directory)
        if path.name in present and path.with_suffix(".json").name in present:
            self._tell("again", "A message (%s) cannot be used and is in %s already: %s", where, path, reason)
            return
        if path.name not in present:
            count = sum(name.endswith(".message") for name in present)
            if count >= self.MOST or sum(present.values()) + len(kept) > self.MOST_BYTES:
                self._tell(
                    "full",
                    "A message (%s) cannot be used and is not kept, since %s is full: %s. Look at it and empty it.",
                    *(where, path.parent, reason),
                )
                return
        about = {"reason": reason, "set_aside": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "bytes": len(content), **place}
        write_whole(path, kept, private=True)
        write_whole(path.with_suffix(".json"), json.dumps(about).encode(), private=True)
        logger.error("A message (%s) cannot be used and is set aside in %s: %s", where, path, reason)

    def _tell(self, what: str, line: str, *values: object) -> None:
        """Log a line that strangers could have logged as often as they like."""
        now = time.monotonic()
        if now - self._told.get(what, -_TELL_EVERY_S) >= _TELL_EVERY_S:
            self._told[what] = now
            logger.error(line, *values)


def _short(value: object) -> str:
    return one_line(str(value), _MOST_OF_A_VALUE)


def _sizes(directory: Path) -> dict[str, int]:
    """Return the size of each file in a directory; a link is none."""
    sizes = {}
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # another listener's, or removed by whoever looks through them
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                sizes[path.name] = found.st_size
    return sizes
