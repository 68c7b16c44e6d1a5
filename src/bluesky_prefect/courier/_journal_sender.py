"""One run on its way from its journal to Tiled."""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import BlueskyPrefectError, error_line
from bluesky_prefect.journal import JournalDamaged, JournalReader, run_uid_of
from bluesky_prefect.tiled_api import AlreadyInTiled, CannotFollow, RunWriter, is_outage

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

logger = logging.getLogger(__name__)

# Documents of a run that goes on, written at once: what TiledWriter itself gathers.
_MAX_DOCUMENTS = 10_000


class RunRefused(BlueskyPrefectError):
    """Tiled will not take a run as it stands in its journal, or the journal cannot be read."""


class JournalSender:
    """Takes the documents of one journal to Tiled, step by step; one thread at a time may work on it.

    Attributes
    ----------
    path : Path
        The journal.
    follows : bool
        Whether the run goes on and is written to Tiled meanwhile.
    asked : bool
        Whether the last step had anything to ask of Tiled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.follows = False
        self.asked = False
        self._can_follow = True
        self._reader: JournalReader | None = None
        self._writer: RunWriter | None = None
        self._start: dict[str, Any] = {}
        self._stop: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """The run, for messages."""
        uid = str(self._start.get("uid") or run_uid_of(self.path))
        scan_id = self._start.get("scan_id")
        return f"Run {uid[:8]}" if scan_id is None else f"Run {uid[:8]} (scan {scan_id})"

    @property
    def stopped_at(self) -> float | None:
        """Time of the run's stop document, in seconds since the epoch; None if that has not come."""
        return None if self._stop is None else float(self._stop.get("time", 0.0))

    def step(self, raw: "CatalogOfBlueskyRuns") -> bool:
        """Take what there is to Tiled; return whether that is all: the run is in Tiled, and over.

        Raises
        ------
        RunRefused
            If the run cannot be written to Tiled as it is.
        Exception
            If the server is the cause; see `is_outage`. The next step begins anew.
        """
        self.asked = False
        try:
            return self._step(raw)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the journal; the next step begins anew."""
        self.follows = False
        self._writer = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _step(self, raw: "CatalogOfBlueskyRuns") -> bool:
        if self._reader is None:
            self._reader = JournalReader(self.path)
        # In this order: what was written until it was let go of is there to be read.
        goes_on = self._reader.is_written()
        if goes_on:
            if self._can_follow:
                self._follow(raw, self._reader)
            # With its stop document a run is over, though its session may still hold the file.
            done = self.follows and self._stop is not None
        else:
            while self.follows and self._follow(raw, self._reader):
                pass
            if self.follows and self._stop is None and self._writer is not None:
                self._writer.check_rows()
            if not self.follows:
                self._write_whole(raw, self._reader)
                self.asked = True
            done = True
        if done:
            self.close()
        return done

    def _follow(self, raw: "CatalogOfBlueskyRuns", reader: JournalReader) -> bool:
        """Write what has come; return False if there is nothing, or the run cannot be followed."""
        documents: list[tuple[str, dict[str, Any]]] = []
        try:
            documents.extend(self._noted(islice(reader.documents(), _MAX_DOCUMENTS)))
            if not documents:
                return False
            if self._writer is None:
                if documents[0][0] != "start":
                    raise CannotFollow("it does not begin with a start document")
                self._writer = RunWriter(raw)
                self.follows = True
            self._writer.follow(documents)
            self.asked = True
        except (CannotFollow, JournalDamaged) as error:
            logger.info("%s is looked at when it is over: %s", self.label, error)
            self._can_follow = self.follows = False
            self._writer = self._stop = None
            return False
        return True

    def _write_whole(self, raw: "CatalogOfBlueskyRuns", reader: JournalReader) -> None:
        reader.rewind()
        self._stop = None
        first = next(self._noted(reader.documents()), None)
        if first is None or first[0] != "start":
            raise RunRefused("its journal does not begin with a start document")
        reader.rewind()
        try:
            RunWriter(raw).write(self._noted(reader.documents()))
            if self._stop is None:
                # What has been gathered last is written at the stop only: write it all anew.
                reader.rewind()
                RunWriter(raw).write_unfinished(list(reader.documents()))
        except AlreadyInTiled:
            deque(self._noted(reader.documents()), maxlen=0)  # for when it stopped
        except JournalDamaged as error:
            self._write_what_is_whole(raw, reader)
            raise RunRefused(f"{error}. What is before that is in Tiled, without a stop document") from error
        except Exception as error:
            if is_outage(error):
                raise
            raise RunRefused(error_line(error)) from error

    def _write_what_is_whole(self, raw: "CatalogOfBlueskyRuns", reader: JournalReader) -> None:
        reader.rewind()
        documents: list[tuple[str, dict[str, Any]]] = []
        with suppress(JournalDamaged):
            documents.extend(reader.documents())
        if documents:
            RunWriter(raw).write_unfinished(documents)

    def _noted(self, documents: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, doc in documents:
            if name == "start":
                self._start = doc
            elif name == "stop":
                self._stop = doc
            yield name, doc
