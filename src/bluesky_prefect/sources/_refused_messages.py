"""Messages that hold no document that can be used, set aside for a person to look at."""

import hashlib
import json
import logging
import time
from pathlib import Path

from bluesky_prefect.core import one_line, private_directory, write_whole

logger = logging.getLogger(__name__)


class RefusedMessages:
    """Messages set aside in a directory: each as it came, beside a file that says why and where it came from.

    The directory is made for the first one. It holds `MOST` messages: what comes then is told of, and not kept.
    """

    MOST = 1000

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, content: bytes, reason: str, **origin: object) -> None:
        """Set a message aside, and log so; the same one twice is there once.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        private_directory(self._directory)
        name = hashlib.sha256(content).hexdigest()[:16]
        path = self._directory / f"{name}.message"
        where = " ".join(f"{key} {value}" for key, value in origin.items())
        if not path.exists() and len(list(self._directory.glob("*.message"))) >= self.MOST:
            logger.error(
                "A message (%s) cannot be used and is not kept, since %s is full: %s", where, path.parent, reason
            )
            return
        about = {"reason": reason, "set_aside": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **origin}
        write_whole(path.with_suffix(".json"), json.dumps(about, default=str).encode(), private=True)
        write_whole(path, content, private=True)
        logger.error("A message (%s) cannot be used and is set aside in %s: %s", where, path, one_line(reason))
