"""What only the owner may read."""

import stat
import subprocess
import sys

import pytest

from bluesky_prefect.core import StackError, write_whole
from bluesky_prefect.stack import make_private_directory
from bluesky_prefect.stack._files import exclusive
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._process import start_process
from bluesky_prefect.stack._tiled import TiledServer


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_directory_is_0700_whatever_the_umask(tmp_path, any_umask):
    assert mode(make_private_directory(tmp_path / "state")) == 0o700


def test_a_directory_that_is_there_is_closed_to_others(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    assert mode(make_private_directory(tmp_path / "state")) == 0o700


def test_a_state_directory_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="BLUESKY_PREFECT_STATE_DIRECTORY"):
        make_private_directory(tmp_path / "file" / "state")


def test_a_lock_keeps_others_out_and_says_who_holds_it(tmp_path):
    with (
        exclusive(tmp_path / "lock", 0),
        pytest.raises(StackError, match="Another 'bluesky-prefect up'"),
        exclusive(tmp_path / "lock", 0.1),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = (
        "import os, sys; from pathlib import Path; from bluesky_prefect.stack._files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 0): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", holder, str(tmp_path / "lock")], check=False).returncode == -9
    with exclusive(tmp_path / "lock", 0):
        pass


def test_in_a_shared_directory_what_the_stack_writes_is_the_group_s(tmp_path, any_umask):
    tmp_path.chmod(0o2770)
    write_whole(tmp_path / "key", b"secret", private=True)
    with exclusive(tmp_path / "lock", 1):
        start_process([sys.executable, "-c", ""], {}, directory=tmp_path, log=tmp_path / "log", port=None)
    assert {mode(tmp_path / name) for name in ("key", "lock", "log")} == {0o660}
    assert mode(make_private_directory(tmp_path / "logs")) == mode(tmp_path) == 0o2770
    assert TiledServer(StackPaths(tmp_path), 0, "").umask == 0o007
