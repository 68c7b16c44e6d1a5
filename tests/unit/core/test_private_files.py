"""What only the owner may read: the state of a session without a stack."""

import os
import stat
from pathlib import Path

import pytest

from bluesky_prefect import Outbox
from bluesky_prefect.core import Submission, private_directory, private_file
from bluesky_prefect.journal import RunRecorder
from bluesky_prefect.session._metadata import PersistentMetadata


def _mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def _outbox(state: Path) -> None:
    outbox = Outbox(state / "outbox.sqlite")
    outbox.put(Submission("key", "workflow", "flow/one", "uid"))
    # While it is open there are the write-ahead log and its index, too.
    assert {path.suffix for path in state.iterdir()} >= {".sqlite", ".sqlite-wal", ".sqlite-shm"}


def _metadata(state: Path) -> None:
    PersistentMetadata(state / "metadata.sqlite")["sample"] = "Fe"


def _journal(state: Path) -> None:
    recorder = RunRecorder(state)
    recorder("start", {"uid": "0" * 36, "time": 0.0})
    recorder("stop", {"uid": "1" * 36, "run_start": "0" * 36, "time": 0.0})
    recorder.close()
    assert list(state.glob("*.journal"))


@pytest.mark.parametrize("write", [_outbox, _metadata, _journal])
@pytest.mark.usefixtures("any_umask")
def test_what_a_session_writes_is_its_owner_s_whatever_the_umask(tmp_path: Path, write):
    write(tmp_path / "state")

    files = list((tmp_path / "state").iterdir())
    assert files
    assert {_mode(path) for path in files} == {"0o600"}
    assert _mode(tmp_path / "state") == "0o700"


@pytest.mark.parametrize("write", [_outbox, _metadata, _journal])
def test_a_state_directory_that_is_open_to_others_is_closed(tmp_path: Path, write):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)

    write(tmp_path / "state")

    assert _mode(tmp_path / "state") == "0o700"


def test_a_file_that_is_open_to_others_is_closed(tmp_path: Path):
    (tmp_path / "outbox.sqlite").touch()
    (tmp_path / "outbox.sqlite").chmod(0o664)

    private_file(tmp_path / "outbox.sqlite")

    assert _mode(tmp_path / "outbox.sqlite") == "0o600"


def test_a_directory_for_everybody_is_told_of_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)

    private_file(shared / "outbox.sqlite")

    assert _mode(shared) == "0o1777"
    assert _mode(shared / "outbox.sqlite") == "0o600"
    assert str(shared) in caplog.text
    assert "BLUESKY_PREFECT_STATE_DIRECTORY" in caplog.text
    with pytest.raises(PermissionError):
        private_directory(shared)


def test_a_directory_of_somebody_else_is_told_of_and_used_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    # Only root could make a directory that is somebody else's; root could then close it.
    monkeypatch.setattr(Path, "chmod", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "not yours")))
    (tmp_path / "state").mkdir()
    os.chmod(tmp_path / "state", 0o775)  # noqa: PTH101

    _outbox(tmp_path / "state")

    assert "is open to other users (mode 775)" in caplog.text


@pytest.mark.parametrize(("umask", "expected"), [(0o000, "0o755"), (0o002, "0o755"), (0o077, "0o700")], ids=str)
def test_nobody_else_can_put_another_directory_in_place_of_the_state_s(tmp_path: Path, umask: int, expected: str):
    before = os.umask(umask)
    try:
        private_directory(tmp_path / "share" / "beamline" / "state")
    finally:
        os.umask(before)

    assert _mode(tmp_path / "share") == _mode(tmp_path / "share" / "beamline") == expected
    assert _mode(tmp_path / "share" / "beamline" / "state") == "0o700"


def test_what_is_made_deep_in_a_directory_of_a_group_is_the_group_s(tmp_path: Path):
    tmp_path.chmod(0o2770)
    before = os.umask(0)
    try:
        private_directory(tmp_path / "beamline" / "state")
    finally:
        os.umask(before)

    assert _mode(tmp_path / "beamline") == _mode(tmp_path / "beamline" / "state") == "0o2770"
