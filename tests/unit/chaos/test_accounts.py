"""The count at the end of a campaign must see what it is there to see."""

from pathlib import Path

import pytest

from tests.chaos.accounts import exported, judge

RUNS = ["one", "two", "three"]
FOLDERS = {uid: [Path(uid)] for uid in RUNS}
EQUAL = {uid: [] for uid in RUNS}


def test_runs_that_were_each_processed_once_are_sound():
    verdict = judge(RUNS, RUNS, FOLDERS, EQUAL)
    assert verdict.sound
    assert verdict.runs == 3


@pytest.mark.parametrize(
    ("completed", "folders", "differences", "reason"),
    [
        (["one", "three"], FOLDERS, EQUAL, "no completed flow run"),
        (RUNS, {uid: FOLDERS[uid] for uid in ("one", "three")}, EQUAL, "no files"),
        (RUNS, FOLDERS, {**EQUAL, "two": ["a value differs"]}, "a value differs"),
        (RUNS, FOLDERS, {"one": [], "three": []}, "not compared with Tiled"),
    ],
)
def test_a_run_that_was_not_processed_is_lost(completed, folders, differences, reason):
    verdict = judge(RUNS, completed, folders, differences)
    assert verdict.lost == {"two": reason}
    assert not verdict.duplicated
    assert not verdict.sound


@pytest.mark.parametrize(
    ("completed", "folders", "reason"),
    [
        ([*RUNS, "two"], FOLDERS, "2 completed flow runs"),
        (RUNS, {**FOLDERS, "two": [Path("two"), Path("again")]}, "2 folders of files"),
    ],
)
def test_a_run_that_was_processed_twice_is_duplicated(completed, folders, reason):
    verdict = judge(RUNS, completed, folders, EQUAL)
    assert verdict.duplicated == {"two": reason}
    assert not verdict.lost
    assert not verdict.sound


def test_a_run_that_tiled_has_otherwise_makes_no_sound_campaign():
    verdict = judge(RUNS, RUNS, FOLDERS, EQUAL)
    verdict.differing["two"] = "an event"
    assert not verdict.sound


def test_a_run_killed_before_any_promise_is_processed_once_at_most():
    promised = ["one", "two"]
    assert judge(promised, RUNS, FOLDERS, EQUAL).sound
    assert judge(promised, promised, FOLDERS, EQUAL).sound
    assert set(judge(promised, [*RUNS, "three"], FOLDERS, EQUAL).duplicated) == {"three"}


def test_a_run_whose_journal_was_damaged_must_not_be_processed():
    assert judge(RUNS, ["one", "three"], {}, {}, damaged=["two"]).lost.keys() == {"one", "three"}
    verdict = judge(RUNS, RUNS, FOLDERS, EQUAL, damaged=["two"])
    assert verdict.duplicated == {"two": "processed, though Tiled does not have it"}
    assert not verdict.lost


def test_folders_are_known_by_the_uid_that_is_written_in_them(tmp_path):
    for name, uid in (("a/x", "one"), ("b/x", "two"), ("b/y", "one")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".bluesky-run-uid").write_text(uid)
    assert {uid: len(folders) for uid, folders in exported(tmp_path).items()} == {"one": 2, "two": 1}
