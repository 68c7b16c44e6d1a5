"""The source of runs in Tiled, without a server that answers."""

import threading
from contextlib import closing
from types import SimpleNamespace

from bluesky_prefect import PrefectCallback, Settings
from bluesky_prefect.metrics import Signals
from bluesky_prefect.sources import TiledSource, _tiled_source
from bluesky_prefect.sources._seen_runs import SeenRuns
from bluesky_prefect.tiled_api import StoredRun
from tests.services.prefect_process import wait_until


class Catalog:
    """A catalog whose address is all that is asked of it."""

    raw = None

    def page_of(self, path: str) -> str:
        return f"http://tiled/{path}"


def test_however_many_runs_are_new_at_a_look_those_that_go_on_are_asked_for_until_they_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(_tiled_source, "_MOST_TAKEN", 10)
    monkeypatch.setattr(SeenRuns, "MOST_OPEN", 20)
    stopped = [StoredRun(str(number), {"uid": number}, {"time": 1.0}, key=str(number)) for number in range(100)]
    begun = StoredRun("begun", {"uid": "begun"}, key="begun")
    monkeypatch.setattr(_tiled_source, "newest_runs", lambda *_: iter([*stopped, begun]))
    monkeypatch.setattr(_tiled_source, "runs_with_uids", lambda *_: iter([]))
    with closing(PrefectCallback("a/local", settings=Settings(state_directory=tmp_path))) as callback:
        source = TiledSource(callback, Settings(state_directory=tmp_path))
        seen = SeenRuns(tmp_path, "raw")
        seen.complete([], [])
        source._look(Catalog(), seen)
        assert list(seen.open) == ["begun"]
        assert len(callback.outbox.entries()) == 100


def test_it_says_that_tiled_is_away_and_that_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    clock = SimpleNamespace(now=1_000.0)
    signals = Signals(lambda: clock.now)
    settings = Settings(tiled_uri="http://127.0.0.1:9", tiled_api_key="secret", state_directory=tmp_path)
    finish = threading.Event()
    source = TiledSource(None, settings, signals=signals)
    thread = threading.Thread(target=source.run, args=[finish], name="listen")
    thread.start()
    try:
        wait_until(lambda: signals.tiled.last, 60)
        assert not signals.tiled.last.is_up
        assert "127.0.0.1:9 cannot be reached" in signals.tiled.last.reason
        clock.now += 1_000
        wait_until(lambda: not signals.problems(), 60)
    finally:
        finish.set()
        thread.join(60)
    assert signals.problems() == ["The thread listen has ended."]
