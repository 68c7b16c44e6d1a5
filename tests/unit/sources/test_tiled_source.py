"""The source of runs in Tiled, without a server that answers."""

import threading
from types import SimpleNamespace

from bluesky_prefect import Settings
from bluesky_prefect.metrics import Signals
from bluesky_prefect.sources import TiledSource
from tests.services.prefect_process import wait_until


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
