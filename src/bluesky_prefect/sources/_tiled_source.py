"""Runs that stop in Tiled, whoever writes them."""

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import (
    BlueskyPrefectError,
    ConfigurationError,
    Run,
    RunNotFound,
    Settings,
    TiledUnavailable,
    counted,
    error_and_place,
    error_line,
)
from bluesky_prefect.metrics import Signals
from bluesky_prefect.sources._seen_runs import IN_A_ROW, SeenRuns
from bluesky_prefect.tiled_api import Catalog, RunStream, StoredRun, newest_runs, runs_between, runs_with_uids

logger = logging.getLogger(__name__)

# While the stream tells of runs, a look finds only what it has missed.
_MORE_RARELY = 10
# A stream that ends by itself is tried again after this.
_STREAM_AGAIN_S = 60.0
# One that the server refuses has ended by then.
_STREAM_LASTS_S = 10.0
# So many runs are remembered as handed over, beside those of the last look.
_MOST_TAKEN = 10_000
# Of the runs that go on so many are asked for at a look, in turns.
_OPEN_AT_ONCE = 50
# A run whose files Tiled cannot name, while it answers else, is handed over without them after so many tries.
_TRIES_OF_FILES = 3
_WAITS_S = (1.0, 2.0, 5.0, 10.0)


class TiledSource:
    """Hands runs to a callback once Tiled has their stop documents.

    Tiled's stream tells of them within milliseconds. Besides, a look at the newest runs every few seconds finds what
    the stream has missed while this process, Tiled or the cache of its stream was away. It goes by the order in which
    runs came to Tiled, so neither clocks nor late deliveries matter. A run is done with once it is in the outbox on
    disk.

    Parameters
    ----------
    callback : PrefectCallback
        Gets the runs.
    settings : Settings
        Where Tiled is, and how often to look.
    since_s : float, optional
        Hand over the runs that stopped since then, in seconds since the epoch; by default, those that stop after the
        first start.
    signals : Signals, optional
        Where its thread says how it is, and whether Tiled is there; see `serve_metrics`.
    """

    def __init__(
        self,
        callback: PrefectCallback,
        settings: Settings,
        *,
        since_s: float | None = None,
        signals: Signals | None = None,
    ) -> None:
        self._callback = callback
        self._signals = signals or Signals()
        self._settings = settings
        self._since_s = since_s
        self._began_s = time.time()
        self._seen: SeenRuns | None = None
        # Keys of runs that the stream tells of; None wakes who waits.
        self._told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Keys of the runs that came while the stream was open, oldest first; the stream adds them on its own thread.
        self._begun: dict[str, None] = {}
        self._taken: dict[str, None] = {}
        self._tries_of_files: dict[str, int] = {}
        self._stream: RunStream | None = None
        self._stream_at = 0.0
        self._told_of_stream = False
        self._is_away = False

    def run(self, finish: threading.Event) -> None:
        """Hand over runs until `finish` is set, and wait while Tiled is away.

        Raises
        ------
        ConfigurationError
            If Tiled cannot be used as the settings say, at the start.
        """
        threading.Thread(target=self._wake_at, args=[finish], name="listen-tiled-end", daemon=True).start()
        failures = 0
        while not finish.is_set():
            self._signals.at_work(0.0)
            try:
                with ExitStack() as opened:
                    catalog = opened.enter_context(Catalog.connect(self._settings))
                    opened.callback(self._close_stream)
                    failures = 0
                    self._serve(catalog, finish)
            except Exception as error:
                if isinstance(error, ConfigurationError) and self._seen is None:
                    raise
                self._away(error)
                self._signals.at_work(0.0)
                finish.wait(_WAITS_S[min(failures, len(_WAITS_S) - 1)])
                failures += 1

    def _wake_at(self, finish: threading.Event) -> None:
        finish.wait()
        self._told.put(None)

    def _away(self, error: Exception) -> None:
        self._signals.tiled.down(str(error) if isinstance(error, BlueskyPrefectError) else error_line(error))
        if not self._is_away:
            self._is_away = True
            if isinstance(error, TiledUnavailable):
                logger.warning("Tiled is away. Runs that stop meanwhile are found when it is back: %s", error)
            else:
                logger.error("Tiled cannot be listened to; it is tried again: %s", error_and_place(error))

    def _serve(self, catalog: Catalog, finish: threading.Event) -> None:
        address = catalog.page_of(self._settings.raw_container)
        _ = catalog.raw  # says what to do if it is not there
        if self._seen is None:
            self._seen = SeenRuns(self._settings.state_directory, address)
        seen = self._seen
        # First the stream, then the look: what stops in between is found twice and started once.
        self._open_stream(catalog)
        self._look(catalog, seen)
        logger.info("Listening to %s", address)
        while not finish.is_set():
            # At first, a run may begin and stop before the server has the stream's subscription.
            every_s = self._settings.listen_every_s * (_MORE_RARELY if self._stream_lasts else 1)
            self._wait(catalog, seen, time.monotonic() + every_s, finish)
            if finish.is_set():
                return
            if self._has_stream:
                self._note_stream()
            elif time.monotonic() >= self._stream_at:
                self._open_stream(catalog)
            self._look(catalog, seen)

    @property
    def _has_stream(self) -> bool:
        return self._stream is not None and self._stream.is_alive

    @property
    def _stream_lasts(self) -> bool:
        return self._has_stream and time.monotonic() >= self._stream_at - _STREAM_AGAIN_S + _STREAM_LASTS_S

    def _open_stream(self, catalog: Catalog) -> None:
        self._close_stream()
        self._stream_at = time.monotonic() + _STREAM_AGAIN_S
        self._stream = RunStream(catalog, self._note_begun, self._told.put, self._stream_ended)
        self._stream.start()

    def _note_begun(self, key: str) -> None:
        self._begun[key] = None
        if len(self._begun) > _MOST_TAKEN:
            self._begun.pop(next(iter(self._begun)), None)

    def _note_stream(self) -> None:
        """Tell that the stream is back once it lasts, so that its next end is told of, too."""
        if self._told_of_stream and self._stream_lasts:
            self._told_of_stream = False
            logger.warning("Tiled's stream of updates tells of runs again")

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _stream_ended(self, problem: str) -> None:
        if not self._told_of_stream:
            self._told_of_stream = True
            logger.warning(
                "Tiled's stream of updates cannot be used (%s). Runs are looked for every %g s instead. The server "
                "needs a streaming_cache in its configuration, and the key the scopes read:metadata and read:data.",
                problem,
                self._settings.listen_every_s,
            )
        self._told.put(None)

    def _wait(self, catalog: Catalog, seen: SeenRuns, until: float, finish: threading.Event) -> None:
        """Hand over what the stream tells of, until a time, or until the stream ends.

        A run that nobody saw begin may be an old one whose metadata somebody edits: a look, soon, knows.
        """
        began = time.monotonic()
        key: str | None = ""
        while key is not None and not finish.is_set():
            keys: dict[str, None] = {}
            self._signals.at_work(max(0.0, until - time.monotonic()))
            try:
                key = self._told.get(timeout=max(0.0, until - time.monotonic()))
                while key is not None:
                    keys[key] = None
                    key = self._told.get_nowait()
            except queue.Empty:
                if not keys:
                    return
            begun = [one for one in keys if one in self._begun or one in seen.open]
            if not keys.keys() <= {*begun, *self._taken, *seen.newest}:
                until = min(until, began + self._settings.listen_every_s)
            new = [one for one in begun if one not in self._taken]
            self._hand_over(catalog, runs_with_uids(catalog, new), seen)
            if time.monotonic() >= until:
                return

    def _look(self, catalog: Catalog, seen: SeenRuns) -> None:
        """Hand over what has stopped since the last complete look, the newest first."""
        if seen.is_new or self._is_another(catalog, seen):
            self._begin(catalog, seen)
        else:
            met: list[str] = []
            left: list[str] = []
            for run in seen.new_among(self._noted(newest_runs(catalog))):
                met.append(run.key)
                self._hand_over(catalog, [run], seen)
                # Now: of many runs the first are no longer remembered as taken at the end.
                if run.key not in self._taken:
                    left.append(run.key)
            self._hand_over(catalog, runs_with_uids(catalog, seen.next_open(_OPEN_AT_ONCE)), seen)
            seen.complete(met, [key for key in left if key not in self._taken])
        if self._since_s is not None:
            many = 0
            for run in self._noted(runs_between(catalog, self._since_s, None)):
                many += bool(run.stop)
                self._hand_over(catalog, [run], seen)
            logger.info("Since the time asked for %s stopped", counted(many, "run"))
            self._since_s = None
        self._save(seen)
        self._signals.tiled.up()
        if self._is_away:
            self._is_away = False
            logger.warning("Tiled answers again; what has stopped meanwhile is in the outbox")

    def _begin(self, catalog: Catalog, seen: SeenRuns) -> None:
        """Leave alone what had stopped before this process began."""
        met = list(self._noted(newest_runs(catalog, seen.MOST)))
        logger.info("This is the first start here: runs that have stopped already are left alone, except by --since")
        new = [run for run in met if run.time_s >= self._began_s]
        self._hand_over(catalog, new, seen)
        waits = {run.key for run in new} - self._taken.keys()
        seen.complete([run.key for run in met], [run.key for run in met if not run.stop or run.key in waits])

    def _is_another(self, catalog: Catalog, seen: SeenRuns) -> bool:
        """Tell whether nothing that was seen is in the catalog: it was emptied, or another one took its place."""
        some = list(seen.newest)[:_OPEN_AT_ONCE]
        if not some or any(run.key in seen.newest for run in newest_runs(catalog, IN_A_ROW)):
            return False
        return not any(True for _ in runs_with_uids(catalog, some))

    def _save(self, seen: SeenRuns) -> None:
        # What only memory holds is looked for again by the next process.
        if self._callback.has_all_on_disk:
            try:
                seen.save()
            except OSError as error:
                logger.error("%s cannot be written, so the next start knows less: %s", seen.path, error_line(error))

    def _hand_over(self, catalog: Catalog, runs: Iterable[StoredRun], seen: SeenRuns) -> None:
        for run in self._noted(runs):
            if not run.stop or run.key in self._taken:
                continue
            self._callback.follow_list()
            try:
                self._callback.run_stopped(self._with_files(catalog, run))
            except (RunNotFound, _FilesUnknown):
                continue  # it was deleted, and is being written anew, or is asked for again
            except TiledUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - the other runs go on; reconciliation finds this one
                logger.error("Run %s could not be handed over: %s", run.uid, error_and_place(error))
            seen.stopped(run.key)
            self._begun.pop(run.key, None)
            self._tries_of_files.pop(run.uid, None)
            self._taken[run.key] = None
            if len(self._taken) > _MOST_TAKEN:
                del self._taken[next(iter(self._taken))]

    def _noted(self, runs: Iterable[StoredRun]) -> Iterator[StoredRun]:
        """Yield runs, and say at each that this thread goes on."""
        self._signals.at_work(0.0)
        for run in runs:
            self._signals.at_work(0.0)
            yield run

    def _with_files(self, catalog: Catalog, run: Run) -> Run:
        """Return a run whose files are known, if a workflow may look at them: Tiled may be away when it does."""
        files: tuple[str, ...] = ()
        if any(workflow.asks_of_run for workflow in self._callback.workflows):
            try:
                files = tuple(run.files)
            except TiledUnavailable as error:
                _ = list(newest_runs(catalog, 1))  # raises if it is Tiled's trouble, and not this run's
                tries = self._tries_of_files[run.uid] = self._tries_of_files.get(run.uid, 0) + 1
                if tries < _TRIES_OF_FILES:
                    raise _FilesUnknown from error
                logger.error("Run %s is handed over without its files: %s", run.uid, error)
        return Run(run.uid, run.start, run.stop, files)


class _FilesUnknown(Exception):
    """Tiled answers, but does not name the files of this run."""
