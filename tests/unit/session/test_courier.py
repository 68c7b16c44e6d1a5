"""What a session says of the courier of its state directory."""

import subprocess
import sys

import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.session._courier import CourierKeeper
from tests.unit.courier.test_courier_lock import _HOLD


@pytest.mark.parametrize(
    ("uri", "told"),
    [("http://t", 0), ("http://t/", 0), ("http://t/api/v1", 0), ("http://elsewhere:8000", 1), (None, 0)],
)
def test_a_session_whose_runs_go_to_another_tiled_than_it_reads_from_says_so(uri, told, tmp_path, monkeypatch):
    monkeypatch.setattr("threading.Thread.start", lambda _: None)
    settings = Settings(state_directory=tmp_path / "state", tiled_uri=uri)
    lines: list[str] = []
    command = [sys.executable, "-c", _HOLD, str(settings.state_directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout.readline() == "held\n"
        CourierKeeper(settings, lines.append).start()
        held.kill()
    assert len(lines) == told
    assert all("http://t" in line and "elsewhere" in line for line in lines)
