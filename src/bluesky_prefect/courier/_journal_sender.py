"""One run on its way from its journal to Tiled."""

import errno
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import BlueskyPrefectError, error_line, is_number
from bluesky_prefect.journal import JournalDamaged, JournalReader, run_uid_of
from bluesky_prefect.tiled_api import AlreadyInTiled, CannotFollow, RunWriter, is_outage

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

logger = logging.getLogger(__name__)

# Documents of a run that goes on, written at once: what TiledWriter itself gathers.
_MAX_DOCUMENTS = 10_000
# Events may hold arrays: no more bytes than that are in memory at once.
_MAX_BYTES = 64_000_000
# Errors that tell of this machine, and not of the journal that meets them.
OF_THIS_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE}
# What goes into entries that others have made.
_DATA = ("event", "stream_datum")


class RunRefused(BlueskyPrefectError):
    """Tiled will not take a run as it stands in its journal, or the journal cannot be read."""


class JournalSender:
    """Takes the documents of one journal to Tiled, step by step; one thread at a time may work on it.

    Parameters
    ----------
    path : Path
        The journal.
    delivered : callable, optional
        Is called with this once Tiled has the run as a whole, before the step that has seen to it ends.
    goes_on : callable, optional
        Is called before each document that is written.
    begun : callable, optional
        Is called when Tiled has the run's entry.

    Attributes
    ----------
    path : Path
        The journal.
    follows : bool
        Whether the run goes on and is written to Tiled meanwhile.
    asked : bool
        Whether the last step had anything to ask of Tiled.
    is_delivered : bool
        Whether `delivered` was called.
    """

    def __init__(
        self,
        path: Path,
        delivered: "Callable[[JournalSender], None]" = lambda _: None,
        goes_on: Callable[[], None] = lambda: None,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.follows = False
        self.asked = False
        self.is_delivered = False
        self._delivered = delivered
        self._goes_on = goes_on
        self._begun = begun
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
        """Time of the run's stop document, in seconds since the epoch, 0 if it has none; None if that has not come."""
        if self._stop is None:
            return None
        told = self._stop.get("time")
        return float(told) if is_number(told) else 0.0

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
        except BaseException as error:
            self.close()
            if self.is_delivered and isinstance(error, Exception):
                logger.info("%s: who listens to it in Tiled was not told that it is over: %s", self.label, error)
                return True
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
        done, goes_on = False, self._reader.is_written()
        if goes_on:
            has_followed = self._can_follow and self._follow(raw, self._reader)
            # With its stop document a run is over, though its session may still hold the file.
            done = self.follows and self._stop is not None
            # A short scan is over by now.
            goes_on = not has_followed or done or self._reader.is_written()
        if not goes_on and not done:
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
        try:
            documents = self._read(reader)
            if not documents:
                return False
            if self._writer is None:
                if documents[0][0] != "start":
                    raise CannotFollow("it does not begin with a start document")
                self._writer = RunWriter(raw, self._is_whole, self._goes_on, self._begun)
                self.follows = True
            while documents:
                data = next((at for at, (name, _) in enumerate(documents) if name.startswith(_DATA)), len(documents))
                self._writer.follow(documents[: data or None])
                # More has come while entries were made, all of a short scan: it is written at once with these.
                documents = documents[data:] + self._read(reader) if data else []
            self.asked = True
        except (CannotFollow, JournalDamaged) as error:
            logger.info("%s is looked at when it is over: %s", self.label, error)
            self._can_follow = self.follows = False
            self._writer = self._stop = None
            return False
        return True

    def _read(self, reader: JournalReader) -> list[tuple[str, dict[str, Any]]]:
        began, read = reader.position, []
        for document in self._noted(islice(reader.documents(), _MAX_DOCUMENTS)):
            read.append(document)
            if reader.position - began > _MAX_BYTES:
                break
        return read

    def _write_whole(self, raw: "CatalogOfBlueskyRuns", reader: JournalReader) -> None:
        reader.rewind()
        self._stop = None
        first = next(self._noted(reader.documents()), None)
        if first is None or first[0] != "start":
            raise RunRefused("its journal does not begin with a start document")
        reader.rewind()
        try:
            RunWriter(raw, self._is_whole, self._goes_on, self._begun).write(self._noted(reader.documents()))
            if self._stop is None:
                # What has been gathered last is written at the stop only: write it all anew.
                RunWriter(raw, goes_on=self._goes_on).write_unfinished(lambda: self._pieces(reader))
        except AlreadyInTiled:
            deque(self._noted(reader.documents()), maxlen=0)  # for when it stopped
        except JournalDamaged as error:
            if any(self._pieces(reader)):
                RunWriter(raw, goes_on=self._goes_on).write_unfinished(lambda: self._pieces(reader))
            raise RunRefused(f"{error}. What is before that is in Tiled, without a stop document") from error
        except Exception as error:
            if is_outage(error) or isinstance(error, MemoryError) or getattr(error, "errno", None) in OF_THIS_MACHINE:
                raise
            raise RunRefused(error_line(error)) from error

    def _pieces(self, reader: JournalReader) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """Yield all that there is, in pieces; where the journal is damaged, what is before that."""
        reader.rewind()
        began, piece = 0, list[tuple[str, dict[str, Any]]]()
        with suppress(JournalDamaged):
            for document in reader.documents():
                piece.append(document)
                if len(piece) == _MAX_DOCUMENTS or reader.position - began > _MAX_BYTES:
                    yield piece
                    began, piece = reader.position, []
        if piece:
            yield piece

    def _is_whole(self) -> None:
        with suppress(OSError):  # met again when the step is over
            self._delivered(self)
            self.is_delivered = True

    def _noted(self, documents: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, doc in documents:
            if name == "start":
                self._start = doc
            elif name == "stop":
                self._stop = doc
            yield name, doc
