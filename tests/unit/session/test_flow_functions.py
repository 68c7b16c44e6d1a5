"""The flows as functions of the prompt, where no flow run may be made."""

from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bluesky_prefect.core import PrefectUnavailable, RunNotFound, Settings, WorkflowList, get_settings
from bluesky_prefect.journal import RunRecorder
from bluesky_prefect.session import export
from bluesky_prefect.session._flow_functions import _require_run
from bluesky_prefect.session._shortcomings import subscribed_callback
from tests.services.loopback import Loopback

_START = {"uid": "0a1b2c3d-0000-4000-8000-000000000000", "time": 0.0}
_STOP = {"uid": "s", "run_start": _START["uid"], "time": 1.0}


class Welcoming(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLUESKY_PREFECT_STATE_DIRECTORY", str(tmp_path / "state"))
    with closing(Loopback(Welcoming)) as tiled:
        monkeypatch.setenv("BLUESKY_PREFECT_TILED_URI", f"http://{tiled.address}")
        get_settings.cache_clear()
        yield get_settings()
    get_settings.cache_clear()


def test_minus_one_is_never_an_older_run_than_the_one_just_taken(settings: Settings, capsys):
    callback, recorder = (
        subscribed_callback(WorkflowList.of_none(), settings, print),
        RunRecorder(settings.journals_path),
    )
    for name, doc in (("start", _START), ("stop", _STOP)):
        recorder(name, doc)
        callback(name, doc)
    callback.close()

    with pytest.raises(RunNotFound, match="-1 would be an older run"):
        _require_run(-1)
    assert "Run 0a1b2c3d is not in Tiled yet: no courier is running" in capsys.readouterr().out


def test_with_prefect_away_a_flow_is_not_called(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(
        PrefectUnavailable, match=r"^Prefect at http://127.0.0.1:9 does not answer \(Connection refused\)"
    ):
        export(-1)
