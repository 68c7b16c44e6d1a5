"""The runs that a listener has seen, kept over its restarts."""

from bluesky_prefect.sources._seen_runs import SeenRuns

CATALOG = "http://localhost:8000/ui/browse/raw"


def test_what_was_saved_is_there_at_the_next_start(tmp_path):
    seen = SeenRuns(tmp_path / "seen.json", CATALOG)
    assert seen.is_new
    seen.complete(["c", "b", "a"], ["b"])
    seen.save()
    again = SeenRuns(tmp_path / "seen.json", CATALOG)
    assert (again.is_new, list(again.newest), list(again.open), again.since) == (
        False,
        ["c", "b", "a"],
        ["b"],
        seen.since,
    )


def test_what_is_known_of_another_catalog_counts_for_nothing(tmp_path):
    seen = SeenRuns(tmp_path / "seen.json", CATALOG)
    seen.complete(["a"], [])
    seen.save()
    assert SeenRuns(tmp_path / "seen.json", f"{CATALOG}2").is_new


def test_a_spoilt_file_is_a_first_start(tmp_path):
    (tmp_path / "seen.json").write_bytes(b'{"catalog": ')
    assert SeenRuns(tmp_path / "seen.json", CATALOG).is_new


def test_the_newest_runs_alone_are_kept(tmp_path):
    seen = SeenRuns(tmp_path / "seen.json", CATALOG)
    seen.complete([f"run-{number}" for number in range(SeenRuns.MOST)], ["run-999"])
    seen.complete(["new"], [])
    assert (next(iter(seen.newest)), len(seen.newest), list(seen.open)) == ("new", SeenRuns.MOST, [])


def test_runs_that_go_on_are_asked_for_in_turns(tmp_path):
    seen = SeenRuns(tmp_path / "seen.json", CATALOG)
    seen.complete("abcd", "abcd")
    assert (seen.next_open(3), seen.next_open(3)) == (["a", "b", "c"], ["d", "a", "b"])
    seen.stopped("c")
    assert sorted(seen.next_open(9)) == ["a", "b", "d"]
