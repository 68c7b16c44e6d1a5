"""Runs that stop in Tiled, whoever writes them."""

import logging
import queue
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import Run, RunNotFound, Settings, TiledUnavailable, counted, error_and_place
from bluesky_prefect.sources._seen_runs import IN_A_ROW, SeenRuns
from bluesky_prefect.tiled_api import Catalog, RunStream, newest_runs, runs_between, runs_with_uids

logger = logging.getLogger(__name__)

# While the stream tells of runs, a look finds only what it has missed.
_MORE_RARELY = 10
# A stream that ends by itself is tried again after this.
_STREAM_AGAIN_S = 60.0
# So many runs are remembered as handed over, beside those of the last look.
_MOST_TAKEN = 10_000
# Of the runs that go on so many are asked for at a look, in turns.
_OPEN_AT_ONCE = 50
_FIRST_WAIT_S, _MAX_WAIT_S = 1.0, 10.0


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
    """

    def __init__(self, callback: PrefectCallback, settings: Settings, *, since_s: float | None = None) -> None:
        self._callback = callback
        self._settings = settings
        self._since_s = since_s
        # Keys of runs that the stream tells of; None wakes who waits.
        self._told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._taken: dict[str, None] = {}
        self._told_of_stream = False

    def run(self, finish: threading.Event) -> None:
        """Hand over runs until `finish` is set, and wait while Tiled is away.

        Raises
        ------
        ConfigurationError
            If Tiled cannot be used as the settings say.
        """
        threading.Thread(target=self._wake_at, args=[finish], name="listen-tiled-end", daemon=True).start()
        failures = 0
        while not finish.is_set():
            began = time.monotonic()
            try:
                with Catalog.connect(self._settings) as catalog:
                    self._serve(catalog, finish)
            except TiledUnavailable as error:
                failures = 1 if time.monotonic() - began > _MAX_WAIT_S else failures + 1
                if failures == 1:
                    logger.warning("Tiled is away. Runs that stop meanwhile are found when it is back: %s", error)
                finish.wait(min(_FIRST_WAIT_S * 2 ** (failures - 1), _MAX_WAIT_S))

    def _wake_at(self, finish: threading.Event) -> None:
        finish.wait()
        self._told.put(None)

    def _serve(self, catalog: Catalog, finish: threading.Event) -> None:
        address = catalog.page_of(self._settings.raw_container)
        seen = SeenRuns(self._settings.state_directory / "listen-tiled.json", address)
        with ExitStack() as opened:
            # First the stream, then the look: what stops in between is found twice and started once.
            stream, stream_at = self._open_stream(catalog, opened), time.monotonic() + _STREAM_AGAIN_S
            if seen.is_new:
                self._begin(catalog, seen)
            else:
                self._look(catalog, seen)
            logger.info("Listening to %s%s", address, "" if stream.is_alive else ", without its stream")
            while not finish.is_set():
                every_s = self._settings.listen_every_s * (_MORE_RARELY if stream.is_alive else 1)
                self._wait(catalog, seen, time.monotonic() + every_s, finish)
                if finish.is_set():
                    return
                if not stream.is_alive and time.monotonic() >= stream_at:
                    stream, stream_at = self._open_stream(catalog, opened), time.monotonic() + _STREAM_AGAIN_S
                self._look(catalog, seen)

    def _open_stream(self, catalog: Catalog, opened: ExitStack) -> RunStream:
        stream = opened.enter_context(closing(RunStream(catalog, self._told.put, self._stream_ended)))
        stream.start()
        return stream

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
        """Hand over what the stream tells of, until a time, or until the stream ends."""
        while not finish.is_set():
            try:
                key = self._told.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            if key is None:
                return
            keys = [key]
            while not self._told.empty() and (another := self._told.get()) is not None:
                keys.append(another)
            self._hand_over(
                runs_with_uids(catalog, [one for one in dict.fromkeys(keys) if one not in self._taken]), seen
            )

    def _begin(self, catalog: Catalog, seen: SeenRuns) -> None:
        """Leave alone what has stopped before the first start, but for what is asked for."""
        met = list(newest_runs(catalog, seen.MOST))
        seen.complete([run.uid for run in met], [run.uid for run in met if not run.stop])
        logger.info(
            "The first start here: runs that have stopped before it are left alone unless --since says otherwise"
        )
        self._reach_back(catalog, seen)

    def _look(self, catalog: Catalog, seen: SeenRuns) -> None:
        """Hand over what has stopped since the last complete look, the newest first."""
        known, in_a_row, met, begun = seen.newest, 0, [], []
        for run in newest_runs(catalog):
            if run.uid in known:
                in_a_row += 1
                if in_a_row == IN_A_ROW:
                    break
                continue
            in_a_row = 0
            met.append(run.uid)
            self._hand_over([run], seen)
            if run.uid not in self._taken:
                begun.append(run.uid)
        self._hand_over(runs_with_uids(catalog, seen.next_open(_OPEN_AT_ONCE)), seen)
        seen.complete(met, begun)
        self._reach_back(catalog, seen)

    def _reach_back(self, catalog: Catalog, seen: SeenRuns) -> None:
        if self._since_s is not None:
            found = list(runs_between(catalog, self._since_s, None))
            logger.info("Since the time asked for %s stopped", counted(sum(bool(run.stop) for run in found), "run"))
            seen.since = min(seen.since, self._since_s)
            self._hand_over(found, seen)
            self._since_s = None
        self._save(seen)

    def _save(self, seen: SeenRuns) -> None:
        # What only memory holds is looked for again by the next process.
        if self._callback.has_all_on_disk:
            try:
                seen.save()
            except OSError as error:
                logger.error("What has been seen cannot be kept; the next start looks again: %s", error)

    def _hand_over(self, runs: Iterable[Run], seen: SeenRuns) -> None:
        for run in runs:
            if not run.stop or run.uid in self._taken:
                continue
            if run.time_s >= seen.since:
                try:
                    self._callback.run_stopped(self._with_files(run))
                except RunNotFound:
                    continue  # it was deleted, or is being written anew
                except TiledUnavailable:
                    raise
                except Exception as error:  # noqa: BLE001 - the other runs go on; reconciliation finds this one
                    logger.error("Run %s could not be handed over: %s", run.uid, error_and_place(error))
            seen.stopped(run.uid)
            self._taken[run.uid] = None
            if len(self._taken) > _MOST_TAKEN:
                del self._taken[next(iter(self._taken))]

    def _with_files(self, run: Run) -> Run:
        """Return a run whose files are known, if a workflow may look at them: Tiled may be away when it does."""
        asked = any(workflow.asks_of_run for workflow in self._callback.workflows)
        return Run(run.uid, run.start, run.stop, tuple(run.files) if asked else ())
