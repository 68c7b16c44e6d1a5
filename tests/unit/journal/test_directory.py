"""The directory of journals: each run is in one place, and what is no longer needed goes."""

import os
import time
from pathlib import Path

import pytest

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.journal import Journal, JournalDirectory


@pytest.fixture
def directory(tmp_path: Path) -> JournalDirectory:
    return JournalDirectory(tmp_path / "journals")


def journal(directory: JournalDirectory, uid: str) -> Path:
    written = Journal(directory.path, uid)
    written.append("start", {"uid": uid})
    path = written.path
    written.close()
    assert path is not None
    return path


def test_a_run_is_undelivered_until_tiled_has_it(directory):
    path = journal(directory, "a")
    [waiting] = directory.waiting()
    assert (waiting.path, waiting.run_uid) == (path, "a")
    assert directory.undelivered_runs() == {"a"}
    assert directory.is_waiting("a")

    directory.deliver(path)

    assert directory.waiting() == []
    assert directory.undelivered_runs() == set()
    assert not directory.is_waiting("a")


def test_what_tiled_refuses_is_undelivered_and_listed_with_its_reason(directory):
    directory.refuse(journal(directory, "a"), "no such\nformat")

    [refused] = directory.refused()
    assert (refused.run_uid, refused.reason) == ("a", r"no such\nformat")
    assert directory.waiting() == []
    assert directory.undelivered_runs() == {"a"}
    assert not directory.is_waiting("a")
    assert directory.why_refused("a") == refused.reason


def test_what_was_refused_is_tried_again_or_deleted_by_the_beginning_of_its_uid(directory):
    for uid in ("abc", "abd", "xyz"):
        directory.refuse(journal(directory, uid), "no")
    with pytest.raises(ConfigurationError, match="abc"):
        directory.retry("ab")
    with pytest.raises(ConfigurationError, match="journal list"):
        directory.discard("q")

    assert directory.retry("abc") == ["abc"]
    assert directory.discard("x") == "xyz"

    assert [one.run_uid for one in directory.waiting()] == ["abc"]
    assert [one.run_uid for one in directory.refused()] == ["abd"]
    assert sorted(path.name for path in (directory.path / "refused").iterdir()) == [
        "abd.journal",
        "abd.journal.reason",
    ]


def test_a_journal_that_is_being_opened_is_left_alone(directory):
    directory.path.mkdir()
    (directory.path / "a.journal").touch()
    assert directory.waiting() == []


def test_the_run_written_to_last_comes_first(directory):
    for age_s, uid in enumerate(("new", "old")):
        path = journal(directory, uid)
        os.utime(path, (0, time.time() - age_s))
    assert [one.run_uid for one in directory.waiting()] == ["new", "old"]


def test_delivered_journals_go_after_their_time_and_the_oldest_earlier_where_the_disk_is_full(directory, monkeypatch):
    for uid in ("a", "b"):
        directory.deliver(journal(directory, uid))
    assert directory.prune(60) == 0
    free = iter([0.01, 0.01, 0.5, 0.5])
    monkeypatch.setattr(directory, "free", lambda: next(free))
    assert directory.prune(60, min_free=0.05) == 1
    assert [path.name for path in (directory.path / "delivered").iterdir()] == ["b.journal"]
    assert directory.prune(0) == 1


@pytest.mark.parametrize("uid", ["../a", "a.b", "ä/\udc80", " ", "x" * 300, ""])
def test_a_uid_of_any_kind_is_found_again_and_stays_in_the_directory(directory, uid):
    path = journal(directory, uid)
    assert path.parent == directory.path
    assert directory.is_waiting(uid)
    assert len(uid) > 200 or not uid or directory.undelivered_runs() == {uid}


def test_what_was_opened_and_never_written_to_goes_in_the_end(directory):
    directory.path.mkdir()
    for uid, age_s in (("new", 0), ("old", 7200)):
        (directory.path / f"{uid}.journal").touch()
        os.utime(directory.path / f"{uid}.journal", (0, time.time() - age_s))
    directory.prune(60)
    assert [path.name for path in directory.path.iterdir()] == ["new.journal"]


def test_a_session_at_work_is_known_and_those_who_look_do_not_hold_it_up(directory):
    written = Journal(directory.path, "a")
    assert directory.is_recorded("a")
    written.close()
    assert not directory.is_recorded("a")
    assert not directory.is_recorded("../a")


def test_no_journal_takes_the_place_of_another_one_of_its_run(directory):
    # A damaged one was refused, and the run was emitted anew.
    directory.refuse(journal(directory, "a"), "first")
    second = journal(directory, "a")
    assert directory.retry("a") == ["a"]
    assert len(directory.waiting()) == 2
    assert second.exists()

    for one in directory.waiting():
        directory.refuse(one.path, f"again {one.path.name}")
    directory.refuse(journal(directory, "a"), "third")
    assert len(directory.refused()) == 3
    assert len({one.reason for one in directory.refused()}) == 3
    assert directory.undelivered_runs() == {"a"}
    directory.discard("a")
    assert not directory.refused()


def test_a_uid_that_others_begin_with_is_named_by_itself(directory):
    for uid in ("abc", "abcd"):
        directory.refuse(journal(directory, uid), "no")
    assert directory.retry("abc") == ["abc"]
    assert [one.run_uid for one in directory.refused()] == ["abcd"]


def test_what_a_full_disk_keeps_empty_stays_as_long_as_its_session(directory):
    opened = Journal(directory.path, "a")
    assert opened.path is not None
    os.utime(opened.path, (0, time.time() - 7200))  # or the clock was set
    directory.prune(60)
    opened.append("start", {"uid": "a"})
    opened.close()
    assert [one.run_uid for one in directory.waiting()] == ["a"]
