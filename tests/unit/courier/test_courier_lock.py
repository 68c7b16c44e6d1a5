"""One courier for each state directory, which others see."""

import subprocess
import sys
from pathlib import Path

import pytest

from bluesky_prefect import Settings
from bluesky_prefect.courier import CourierRuns, running_courier
from bluesky_prefect.courier._courier_lock import is_theirs, only_courier
from tests.services.full_disk import full_disk

_HOLD = """
import sys
from pathlib import Path
from bluesky_prefect import Settings
from bluesky_prefect.courier._courier_lock import is_theirs, only_courier

with only_courier(Settings(state_directory=Path(sys.argv[1])), prefect="http://p/api", tiled="http://t"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_directory=tmp_path / "state")


def test_a_courier_is_seen_as_long_as_it_lives_and_there_is_one(settings):
    assert running_courier(settings) is None
    command = [sys.executable, "-c", _HOLD, str(settings.state_directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout.readline() == "held\n"
        found = running_courier(settings)
        assert found is not None
        assert found.process.endswith(f":{held.pid}")
        assert (found.prefect, found.tiled) == ("http://p/api", "http://t")
        with (
            pytest.raises(CourierRuns, match=f":{held.pid}"),
            only_courier(settings, prefect=None, tiled=""),
        ):
            pass
        held.kill()
    assert running_courier(settings) is None
    with only_courier(settings, prefect=None, tiled=""):
        assert running_courier(settings) is not None


def test_a_courier_starts_on_a_full_disk_which_it_is_to_make_room_on(settings, caplog):
    with only_courier(settings, prefect="http://p/api", tiled=""):
        pass
    with full_disk(), only_courier(settings, prefect="http://p/api", tiled=""):
        found = running_courier(settings)
        assert found is not None
        # Sessions do not rely on one of which they do not know where it sends to.
        assert found.prefect is None
    assert "courier.lock cannot be written" in caplog.text


def test_those_who_look_keep_no_courier_from_starting(settings):
    settings.state_directory.mkdir()
    lock = settings.state_directory / "courier.lock"
    lock.touch()
    look = (
        "import fcntl, sys, time\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_SH)\n"
        "print('looks', flush=True)\ntime.sleep(0.3)"
    )
    command = [sys.executable, "-c", look, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as looking:
        assert looking.stdout.readline() == "looks\n"
        with only_courier(settings, prefect=None, tiled=""):
            assert looking.wait() == 0


def test_a_courier_whose_state_directory_was_moved_is_not_that_of_the_next_one(settings, tmp_path):
    with only_courier(settings, prefect=None, tiled="") as lock:
        assert not is_theirs(lock, settings)
        settings.state_directory.rename(tmp_path / "moved")
        assert is_theirs(lock, settings)
        with only_courier(settings, prefect=None, tiled="") as new:
            assert is_theirs(lock, settings)
            assert not is_theirs(new, settings)
