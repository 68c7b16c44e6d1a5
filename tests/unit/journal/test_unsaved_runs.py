"""Files of earlier versions, read once more."""

from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect.core import lock_file
from bluesky_prefect.journal import JournalReader, adopt_unsaved_runs
from tests.services.full_disk import full_disk
from tests.services.unsaved_runs import write_unsaved_run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "unsaved-runs"


def test_a_file_of_an_earlier_version_becomes_a_journal(directory, tmp_path):
    uid, path = write_unsaved_run(directory, "good")

    adopt_unsaved_runs(directory, tmp_path / "journals")

    assert not path.exists()
    with closing(JournalReader(tmp_path / "journals" / f"{uid}.journal")) as reader:
        assert [name for name, _ in reader.documents()] == ["start", "descriptor", "event", "event", "stop"]


def test_a_file_that_a_session_is_writing_to_is_left_for_later(directory, tmp_path):
    _, path = write_unsaved_run(directory, "good")
    with path.open("rb") as held:
        lock_file(held)
        adopt_unsaved_runs(directory, tmp_path / "journals")
    assert path.exists()
    assert not (tmp_path / "journals").exists()


def test_a_file_that_cannot_be_read_is_named_and_stays(directory, tmp_path, caplog):
    _, bad = write_unsaved_run(directory, "garbage")
    uid, _ = write_unsaved_run(directory, "good")

    adopt_unsaved_runs(directory, tmp_path / "journals")

    adopt_unsaved_runs(directory, tmp_path / "journals")

    assert len(caplog.records) == 1
    assert bad.with_name(f"{bad.name}.unreadable").exists()
    assert str(bad) in caplog.text
    assert [path.stem for path in (tmp_path / "journals").iterdir()] == [uid]


def test_a_file_that_a_full_disk_refuses_is_left_for_later(directory, tmp_path):
    uid, path = write_unsaved_run(directory, "good")
    with full_disk(300):
        adopt_unsaved_runs(directory, tmp_path / "journals")
    assert path.exists()
    assert not list((tmp_path / "journals").iterdir())

    adopt_unsaved_runs(directory, tmp_path / "journals")
    assert not path.exists()
    assert [path.stem for path in (tmp_path / "journals").iterdir()] == [uid]


def test_without_such_a_directory_there_is_nothing_to_do(directory, tmp_path):
    adopt_unsaved_runs(directory, tmp_path / "journals")
    assert list(tmp_path.iterdir()) == []
