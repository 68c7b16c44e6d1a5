"""An outbox that is looked at only if there is one."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bluesky_prefect.core import OutboxError
from bluesky_prefect.outbox._format_files import OutboxFile
from bluesky_prefect.outbox._outbox import Outbox

logger = logging.getLogger(__name__)


@contextmanager
def existing_outbox(path: Path) -> Iterator[Outbox | None]:
    """Open an outbox for looking at it; None if there is no such file, which is no reason to make one.

    What sessions of older versions have put beside it is moved to it first. Raises `OutboxError` if it cannot be told
    whether there is one.
    """
    try:
        exists = path.exists() or bool(OutboxFile(path).siblings())
    except OSError as error:
        raise OutboxError(f"Outbox {path}: it cannot be looked for: {error}.") from error
    if not exists:
        yield None
        return
    with closing(Outbox(path)) as outbox:
        try:
            outbox.adopt_siblings()
        except OutboxError as error:
            logger.warning("What waits beside the outbox is not among this: %s", error)
        yield outbox
