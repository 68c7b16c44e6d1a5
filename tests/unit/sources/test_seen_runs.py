"""The runs that a listener has seen, kept over its restarts."""

import itertools

import pytest

from bluesky_prefect.sources._seen_runs import SeenRuns
from bluesky_prefect.tiled_api import StoredRun

CATALOG = "http://localhost:8000/ui/browse/raw"


def stored(keys):
    return (StoredRun(key, {}, key=key) for key in keys)


def test_what_was_saved_is_there_at_the_next_start(tmp_path):
    seen = SeenRuns(tmp_path, CATALOG)
    assert seen.is_new
    seen.complete(["c", "b", "a"], ["b"])
    seen.save()
    again = SeenRuns(tmp_path, CATALOG)
    assert (again.is_new, list(again.newest), list(again.open)) == (False, ["c", "b", "a"], ["b"])


def test_another_catalog_has_a_file_of_its_own_and_a_warning_says_so(tmp_path, caplog):
    seen = SeenRuns(tmp_path, CATALOG)
    seen.complete(["a"], [])
    seen.save()
    assert not caplog.records
    other = SeenRuns(tmp_path, f"{CATALOG}2")
    assert other.is_new
    assert f"but {CATALOG} was" in caplog.text
    other.complete(["b"], [])
    other.save()
    assert list(SeenRuns(tmp_path, CATALOG).newest) == ["a"]


def test_a_spoilt_file_is_a_first_start_and_a_warning_says_so(tmp_path, caplog):
    SeenRuns(tmp_path, CATALOG).path.write_bytes(b'{"catalog": ')
    assert SeenRuns(tmp_path, CATALOG).is_new
    assert "--since" in caplog.text


def test_the_newest_runs_are_kept_and_all_that_go_on(tmp_path):
    seen = SeenRuns(tmp_path, CATALOG)
    seen.complete([f"run-{number}" for number in range(SeenRuns.MOST)], ["run-999"])
    seen.complete(["new"], [])
    assert (next(iter(seen.newest)), len(seen.newest), list(seen.open)) == ("new", SeenRuns.MOST, ["run-999"])


@pytest.mark.parametrize(
    ("most", "listed", "new"),
    [
        (100, "xcbay", "xy"),  # all that there was is known
        (3, "xcybzaw", "xyz"),  # there were more, and what comes after the last known one is of these
        (3, "xyz", "xyz"),
    ],
)
def test_what_came_since_is_told_from_what_was_there_before(tmp_path, monkeypatch, most, listed, new):
    monkeypatch.setattr(SeenRuns, "MOST", most)
    seen = SeenRuns(tmp_path, CATALOG)
    seen.complete("cba", [])
    assert "".join(run.key for run in seen.new_among(stored(listed))) == new


def test_behind_the_last_known_run_nobody_looks_through_a_whole_catalog(tmp_path, monkeypatch):
    monkeypatch.setattr(SeenRuns, "MOST", 3)
    seen = SeenRuns(tmp_path, CATALOG)
    seen.complete("cba", [])
    older = itertools.chain("a", map(str, itertools.count()))
    assert list(seen.new_among(stored(older))) == []


def test_runs_that_never_stop_are_given_up_beyond_a_number(tmp_path, caplog):
    seen = SeenRuns(tmp_path, CATALOG)
    seen.complete([], [f"run-{number}" for number in range(SeenRuns.MOST_OPEN + 1)])
    assert len(seen.open) == SeenRuns.MOST_OPEN
    assert "run-5000" in caplog.text


def test_runs_that_go_on_are_asked_for_in_turns(tmp_path):
    seen = SeenRuns(tmp_path, CATALOG)
    seen.complete("abcd", "abcd")
    assert (seen.next_open(3), seen.next_open(3)) == (["a", "b", "c"], ["d", "a", "b"])
    seen.stopped("c")
    assert sorted(seen.next_open(9)) == ["a", "b", "d"]
