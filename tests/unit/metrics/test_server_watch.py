"""A look at servers that are not there; what it finds of real ones is in the system tests."""

from contextlib import ExitStack

import pytest

from bluesky_prefect import Settings
from bluesky_prefect.metrics import Signals
from bluesky_prefect.metrics import _server_watch as module
from bluesky_prefect.metrics._followed_flow_runs import FollowedFlowRuns
from bluesky_prefect.metrics._server_watch import ServerWatch
from tests.services.prefect_process import wait_until


@pytest.fixture
def signals():
    return Signals()


def test_a_prefect_without_an_address_is_told_with_the_remedy(signals, tmp_path):
    watch = ServerWatch(Settings(state_directory=tmp_path), signals, FollowedFlowRuns(), print)
    with ExitStack() as opened:
        watch._look_at_prefect(opened, [])
    assert not signals.prefect.last.is_up
    assert "PREFECT_API_URL" in signals.prefect.last.reason


def test_a_prefect_that_cannot_be_imported_is_told_and_looked_at_again(signals, tmp_path, monkeypatch):
    def broken(_):
        raise ImportError("no module named anyio")

    monkeypatch.setattr(module, "PrefectApi", broken)
    watch = ServerWatch(Settings(state_directory=tmp_path), signals, FollowedFlowRuns(), print)
    with ExitStack() as opened:
        watch._look_at_prefect(opened, [])
    assert signals.prefect.last.reason == "Prefect cannot be imported: ImportError: no module named anyio"


def test_both_servers_are_looked_at_until_the_end(signals, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    asked = []
    watch = ServerWatch(
        Settings(state_directory=tmp_path), signals, FollowedFlowRuns(), print, lambda: asked.append("Tiled")
    )
    watch.start()
    wait_until(lambda: asked and signals.prefect.last)
    watch.close()
    watch._thread.join()
    assert asked == ["Tiled"]  # the next time it is due in 15 s
