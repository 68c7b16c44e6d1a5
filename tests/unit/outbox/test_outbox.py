"""The outbox keeps every submission until it is sent, for several processes, across kills."""

import dataclasses
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect.core import OutboxError, Submission, submission_key
from bluesky_prefect.outbox import PRUNED_AT_ONCE, Draft, Outbox, OutboxCounts, Unsent
from bluesky_prefect.outbox._send_order import _ASIDE, KEPT_IN_ORDER


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def submission(uid: str, deployment: str = "flow/one") -> Submission:
    return Submission(submission_key(uid, deployment), deployment, deployment, uid, {"scan_id": 1}, {"run_start": uid})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path, clock: Clock):
    box = Outbox(tmp_path / "state" / "outbox.sqlite", lease_s=60, clock=clock)
    yield box
    box.close()


def taken(outbox: Outbox) -> str | None:
    entry = outbox.take()
    return None if entry is None else entry.run_uid


def test_what_was_put_comes_out_as_it_was(outbox):
    sent = Submission("k", "w", "flow/one", "u", {"a": [1, None]}, {"b": "c"}, {"ref": "u"})
    assert outbox.put(sent)
    assert outbox.take().submission == sent


def test_put_waits_for_the_disk(outbox):
    # SQLite's FULL: each commit is followed by an fsync.
    assert [tuple(row) for row in outbox._durable.read("PRAGMA synchronous")] == [(2,)]


def test_the_same_key_is_kept_once(outbox):
    assert outbox.put(submission("a"))
    assert not outbox.put(submission("a"))
    assert outbox.counts() == OutboxCounts(waiting=1)


def test_a_sent_submission_put_again_stays_sent(outbox):
    outbox.put(submission("a"))
    outbox.mark_sent(outbox.take().key, "id", "name")
    assert not outbox.put(submission("a"))
    assert outbox.counts() == OutboxCounts(sent=1)


def drained(outbox: Outbox, most: int = 1_000_000) -> list[str]:
    """Send what waits, as long as something is due; return the runs' uids in that order."""
    order = []
    while len(order) < most and (entry := outbox.take()):
        order.append(entry.run_uid)
        outbox.mark_sent(entry.key, "id", "name")
    return order


def fill(outbox: Outbox, uids: list[str], deployment: str = "flow/one") -> None:
    for uid in uids:
        outbox.put(submission(uid, deployment))


def test_up_to_a_hundred_submissions_of_a_deployment_keep_their_order(outbox):
    uids = [str(number) for number in range(KEPT_IN_ORDER)]
    fill(outbox, uids)
    assert drained(outbox) == uids


def test_while_more_than_a_hundred_wait_every_other_one_is_the_newest(outbox):
    fill(outbox, [str(number) for number in range(KEPT_IN_ORDER + 6)])
    last = KEPT_IN_ORDER + 5
    assert drained(outbox, most=6) == ["0", str(last), "1", str(last - 1), "2", str(last - 2)]
    assert drained(outbox) == [str(number) for number in range(3, last - 2)]


def test_a_run_that_ends_during_a_backlog_is_sent_within_two_submissions(outbox):
    fill(outbox, [f"old-{number}" for number in range(500)])
    for number in range(50):
        drained(outbox, most=3)
        outbox.put(submission(f"fresh-{number}"))
        assert f"fresh-{number}" in drained(outbox, most=2)


def test_the_oldest_of_a_backlog_move_on_while_newer_runs_keep_coming(outbox):
    fill(outbox, [f"old-{number}" for number in range(200)])
    order = []
    for number in range(50):
        outbox.put(submission(f"fresh-{number}"))
        order += drained(outbox, most=1)
    assert [uid for uid in order if uid.startswith("old")] == [f"old-{number}" for number in range(25)]


def test_a_deployment_with_a_backlog_does_not_hold_up_another(outbox):
    fill(outbox, [f"old-{number}" for number in range(50)], "flow/one")
    fill(outbox, ["fresh"], "flow/two")
    assert "fresh" in drained(outbox, most=2)


def test_a_newest_that_was_given_back_waits_its_time_and_holds_nobody_up(outbox, clock):
    fill(outbox, [str(number) for number in range(200)])
    drained(outbox, most=1)
    newest = outbox.take()
    assert newest.run_uid == "199"
    outbox.give_back(newest.key, "500", 10)
    assert drained(outbox, most=4) == ["1", "2", "3", "4"]
    clock.now += 11
    assert "199" in drained(outbox, most=2)


def test_the_newest_of_a_deployment_that_is_delayed_waits_with_it(outbox):
    fill(outbox, [str(number) for number in range(200)])
    outbox.give_back(outbox.take().key, "no deployment", 60)
    assert outbox.take() is None


def test_two_takers_of_a_backlog_take_each_submission_once(outbox):
    uids = [str(number) for number in range(300)]
    fill(outbox, uids)
    other = Outbox(outbox.path, lease_s=60, clock=lambda: 1_000_000.0)
    order = []
    while entry := outbox.take():
        order += drained(other, most=1)
        order.append(entry.run_uid)
        outbox.mark_sent(entry.key, "id", "name")
    order += drained(other)
    assert sorted(order) == sorted(uids)
    other.close()


def cost_of_taking(outbox: Outbox, waiting: int) -> int:
    """Return how many hundreds of SQLite's instructions four takes need when so many wait."""
    fill(outbox, [f"{waiting}-{number}" for number in range(waiting)])
    hundreds = []
    outbox.counts()  # it is open now
    outbox._relaxed._connection.set_progress_handler(lambda: hundreds.append(1), 100)
    drained(outbox, most=4)
    return len(hundreds)


def test_what_taking_costs_does_not_grow_with_the_backlog(tmp_path):
    few, many = Outbox(tmp_path / "few.sqlite"), Outbox(tmp_path / "many.sqlite")
    assert cost_of_taking(many, 2000) <= 1.2 * cost_of_taking(few, 200)
    few.close()
    many.close()


def test_nothing_overtakes_a_delayed_submission_of_its_deployment(outbox, clock):
    for uid in "ab":
        outbox.put(submission(uid))
    outbox.give_back(outbox.take().key, "outage", 10)
    assert taken(outbox) is None
    clock.now += 11
    assert taken(outbox) == "a"


def test_a_delayed_submission_does_not_hold_up_another_deployment(outbox):
    outbox.put(submission("a", "flow/one"))
    outbox.put(submission("a", "flow/two"))
    outbox.give_back(outbox.take().key, "missing", 10)
    assert outbox.take().deployment == "flow/two"


def test_a_submission_that_stands_aside_holds_nobody_up(outbox):
    for uid in "ab":
        outbox.put(submission(uid))
    outbox.give_back(outbox.take().key, "500", 10, aside=True)
    assert taken(outbox) == "b"


def test_looking_among_many_large_ones_that_stand_aside_reads_one_of_them(outbox, clock):
    large = dataclasses.replace(submission("0"), stop={"text": "x" * 100_000})
    for number in range(100):
        outbox.put(dataclasses.replace(large, key=str(number), run_uid=str(number)))
        outbox.give_back(outbox.take().key, "500", 10 + number, aside=True)
    rows = []
    connection = outbox._relaxed._connection
    connection.row_factory = lambda cursor, row: rows.append(row) or sqlite3.Row(cursor, row)
    assert outbox.take() is None
    clock.now += 59
    assert [taken(outbox), taken(outbox)] == ["0", "1"]
    assert outbox.take().run_uid == "2"
    assert sum(len(value) for row in rows for value in row if isinstance(value, bytes)) < 4 * 101_000
    # SQLite reads the pages of a large row up to the columns that it wants, unless an index holds them.
    connection.row_factory = None
    values = {"deployment": "flow/one", "api_url": A, "now": 0, "set_back": 0}
    plans = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {_ASIDE}", values)]
    assert any("COVERING INDEX entries_aside" in plan for plan in plans)


def test_a_leased_submission_is_nobody_elses_until_the_lease_ends(outbox, clock):
    other = Outbox(outbox.path, lease_s=60, clock=clock)
    outbox.put(submission("a"))
    assert taken(outbox) == "a"
    assert taken(other) is None
    clock.now += 61
    assert taken(other) == "a"
    other.close()


def test_a_dead_letter_is_listed_with_its_reason_and_can_be_retried(outbox):
    outbox.put(submission("a"))
    outbox.mark_dead(outbox.take().key, "nothing fills 'sample'")
    [entry] = outbox.entries(state="dead")
    assert entry.reason == "nothing fills 'sample'"
    assert taken(outbox) is None
    assert outbox.retry(entry.key)
    assert taken(outbox) == "a"


def test_an_undecided_dead_letter_is_not_retried_but_may_be_marked_sent(outbox):
    outbox.put(dataclasses.replace(submission("a"), undecided=True), dead="parameters= failed")
    key = submission("a").key
    assert not outbox.retry(key)
    assert taken(outbox) is None
    outbox.mark_sent(key, "id", "name")  # somebody has fixed the workflow and started it
    assert outbox.counts() == OutboxCounts(sent=1)


def test_a_dead_letter_can_be_discarded_and_a_sent_submission_cannot(outbox):
    outbox.put(submission("a"), dead="why")
    outbox.put(submission("b"))
    outbox.mark_sent(outbox.take().key, "id", "name")
    assert outbox.discard(submission("a").key)
    assert not outbox.discard(submission("b").key)
    assert outbox.counts() == OutboxCounts(sent=1)


def test_a_submission_that_is_being_sent_cannot_be_discarded(outbox, clock):
    outbox.put(submission("a"))
    outbox.take()
    assert not outbox.discard(submission("a").key)
    clock.now += 61
    assert outbox.discard(submission("a").key)


def test_a_taker_whose_lease_has_ended_does_not_free_another_s(outbox, clock):
    # Two processes: a lease knows its holder by its process.
    outbox.put(submission("a"))
    late = subprocess.Popen(
        [sys.executable, "-c", TAKE_AND_GIVE_BACK, str(outbox.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert late.stdout.readline().strip() == submission("a").key
    clock.now = time.time() + 200
    assert taken(outbox) == "a"
    late.communicate("\n", timeout=30)
    [entry] = outbox.entries()
    assert entry.held_by == f"{socket.gethostname()}:{os.getpid()}"


TAKE_AND_GIVE_BACK = """
import sys
from pathlib import Path
from bluesky_prefect.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
key = outbox.take().key
print(key, flush=True)
sys.stdin.readline()
outbox.give_back(key, "time-out", 10)
"""


def test_an_entry_says_who_is_sending_it_and_when_it_is_tried_next(outbox, clock):
    outbox.put(submission("a"))
    [entry] = outbox.entries()
    assert (entry.held_by, entry.due) == (None, None)
    key = outbox.take().key
    assert outbox.entries()[0].held_by == f"{socket.gethostname()}:{os.getpid()}"
    outbox.give_back(key, "outage", 30)
    [entry] = outbox.entries()
    assert (entry.held_by, entry.due, entry.attempts) == (None, clock.now + 30, 1)


def test_an_entry_is_found_by_its_key_uid_beginning_of_uid_or_scan_id(outbox):
    for uid, scan_id in {"4f3a2b1c-x": 12, "4f3a2-y": 120, "9": 13}.items():
        start = {"scan_id": scan_id, "reference": {"scan_id": 13}, "text": '"scan_id":77,'}
        outbox.put(Submission(f"{uid}:flow/one", "flow/one", "flow/one", uid, start))

    def named(name):
        return [entry.run_uid for entry in outbox.named(name)]

    assert named("4f3a2b1c-x:flow/one") == named("4f3a2b1c-x") == named("4f3a2b") == named("12") == ["4f3a2b1c-x"]
    assert named("4f3a2") == ["4f3a2-y", "4f3a2b1c-x"]
    assert named("13") == named("9") == ["9"]
    assert named("4f3a") == named("4f3a2_") == named("77") == named("%%%%%") == []


def test_entries_are_read_page_by_page(outbox):
    fill(outbox, list("abcde"))
    first = outbox.entries(limit=2)
    assert [entry.run_uid for entry in first] == ["e", "d"]
    assert [entry.run_uid for entry in outbox.entries(before=first[-1].seq)] == ["c", "b", "a"]


def rewrite(outbox: Outbox, change: str) -> None:
    """Change the file behind the outbox's back, as another version would."""
    with sqlite3.connect(outbox.path) as connection:
        connection.execute(change)
    connection.close()


def test_a_field_of_a_newer_version_is_passed_over(outbox):
    outbox.put(submission("a"))
    rewrite(outbox, """UPDATE entries SET submission = json_set(submission, '$.of_the_future', 'x')""")
    entry = outbox.take()
    assert entry.submission == submission("a")


def test_an_entry_that_this_version_cannot_read_is_left_for_others(outbox, caplog):
    outbox.put(submission("a"))
    outbox.put(submission("b"))
    rewrite(outbox, """UPDATE entries SET submission = '{"from": "the future"}' WHERE run_uid = 'a'""")
    assert [taken(outbox) for _ in range(3)] == ["b", None, None]
    [left] = outbox.entries(state="waiting", before=2)
    assert (left.run_uid, left.scan_id, left.held_by, left.attempts, left.due) == ("a", None, None, 0, None)
    assert "cannot read it" in left.reason
    assert len(caplog.records) == 1
    with pytest.raises(OutboxError, match="bluesky-prefect submit a"):
        _ = left.submission
    # Who can read it (again) takes it.
    rewrite(outbox, f"""UPDATE entries SET submission = '{submission("a").to_json().decode()}' WHERE run_uid = 'a'""")
    other = Outbox(outbox.path, clock=lambda: 1_000_000.0)
    assert taken(other) == "a"
    other.close()


def test_what_many_unreadable_entries_cost_others_is_a_place_behind_them(outbox):
    fill(outbox, [str(number) for number in range(20)])
    rewrite(outbox, """UPDATE entries SET submission = '[]' WHERE run_uid < '15'""")
    assert set(drained(outbox)) == {str(number) for number in range(20) if str(number) >= "15"}


def test_much_that_is_old_is_pruned_in_small_transactions(outbox, clock):
    fill(outbox, [str(number) for number in range(PRUNED_AT_ONCE + 1)])
    drained(outbox)
    clock.now += 31 * 86400
    assert [outbox.prune(30) for _ in range(3)] == [PRUNED_AT_ONCE, 1, 0]


def test_only_old_sent_submissions_are_pruned(outbox, clock):
    for uid in "abc":
        outbox.put(submission(uid))
    outbox.mark_sent(outbox.take().key, "id", "name")
    outbox.mark_dead(outbox.take().key, "why")
    clock.now += 31 * 86400
    assert outbox.prune(30) == 1
    assert outbox.counts() == OutboxCounts(waiting=1, dead=1)


def plans(outbox: Outbox, look: Callable[[], object]) -> str:
    """Return how SQLite goes about what a look asks of it."""
    statements: list[str] = []
    look()  # it is open now
    connection = outbox._relaxed._connection
    connection.set_trace_callback(statements.append)
    look()
    connection.set_trace_callback(None)
    queries = [one for one in statements if one.startswith("SELECT")]
    assert queries
    return "\n".join(row[-1] for one in queries for row in connection.execute(f"EXPLAIN QUERY PLAN {one}"))


def test_looking_for_what_is_old_reads_nothing_that_is_kept(outbox):
    assert plans(outbox, lambda: outbox.prune(30)).count("COVERING INDEX entries_done (state=? AND changed<?)") == 2


def test_counting_by_address_reads_no_submission_and_sorts_nothing(outbox):
    plan = plans(outbox, lambda: (outbox.waiting_by_address(for_s=60), outbox.unsent_by_address()))
    assert plan.count("SEARCH entries USING COVERING INDEX entries_by_state") == 2
    assert "TEMP B-TREE" not in plan


def test_what_has_waited_for_some_time_is_counted_by_address(outbox, clock):
    fill(outbox, ["old", "sent"])
    outbox.mark_sent("sent:flow/one")
    clock.now += 30
    outbox.put(submission("elsewhere"), api_url=A)
    clock.now += 30
    outbox.put(submission("new"))
    assert outbox.waiting_by_address(for_s=61) == {}
    assert outbox.waiting_by_address(for_s=60) == {None: 1}
    assert outbox.waiting_by_address(for_s=30) == {None: 1, A: 1}
    assert outbox.waiting_by_address() == {None: 2, A: 1}


@pytest.mark.parametrize("jump_s", [-3600 * 24, -3600, 3600 * 24])
def test_a_clock_that_jumps_does_not_prolong_a_wait(outbox, clock, jump_s):
    outbox.put(submission("a"))
    outbox.give_back(outbox.take().key, "outage", 30)
    clock.now += jump_s
    assert taken(outbox) == "a"


@pytest.mark.parametrize("jump_s", [-3600 * 24, -3600, 3600 * 24])
def test_a_clock_that_jumps_does_not_prolong_a_lease(outbox, clock, jump_s):
    outbox.put(submission("a"))
    outbox.take()
    clock.now += jump_s
    assert taken(outbox) == "a"


def test_a_retry_after_the_clock_was_set_back_frees_what_was_held_before(outbox, clock):
    outbox.put(submission("a"))
    outbox.take()
    clock.now -= 86_400
    assert outbox.retry(submission("a").key)
    assert taken(outbox) == "a"


def test_a_dead_taker_leaves_no_wait_from_before_the_clock_was_set_back(outbox, clock):
    outbox.put(submission("a"))
    outbox.give_back(outbox.take().key, "outage", 30)
    clock.now -= 86_400
    outbox.take()
    clock.now += 61
    assert taken(outbox) == "a"


def test_a_retry_leaves_alone_what_is_being_sent(outbox):
    outbox.put(submission("a"))
    outbox.take()
    assert outbox.retry(submission("a").key)
    assert taken(outbox) is None


def test_the_file_and_its_directory_are_the_owners_alone(outbox):
    outbox.put(submission("a"))
    assert stat.S_IMODE(outbox.path.parent.stat().st_mode) == 0o700
    for file in outbox.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_outbox_opens_once_the_trouble_is_gone(tmp_path):
    (tmp_path / "state").write_text("a file where the directory should be")
    outbox = Outbox(tmp_path / "state" / "outbox.sqlite")
    with pytest.raises(OutboxError):
        outbox.put(submission("a"))
    (tmp_path / "state").unlink()
    assert outbox.put(submission("a"))
    outbox.close()


def test_a_file_deleted_while_it_is_open_is_made_again(outbox):
    outbox.put(submission("a"))
    for file in outbox.path.parent.iterdir():
        file.unlink()
    outbox.put(submission("b"))
    other = Outbox(outbox.path)
    assert [entry.run_uid for entry in other.entries()] == ["b"]
    other.close()


def test_a_process_stopped_in_the_middle_of_a_write_holds_nobody_up_for_long(outbox):
    outbox.put(submission("a"))
    blocker = sqlite3.connect(outbox.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxError, match="locked"):
        outbox.put(submission("b"))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert outbox.put(submission("b"))


A, B = "http://a.example/api", "http://b.example/api"


def test_of_the_submissions_of_a_run_all_are_put_in_or_none(outbox):
    outbox.put(submission("before"))
    rewrite(
        outbox,
        "CREATE TRIGGER full BEFORE INSERT ON entries WHEN NEW.deployment = 'flow/two' "
        "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    )
    drafts = [Draft(submission("a", deployment)) for deployment in ("flow/one", "flow/two")]
    with pytest.raises(OutboxError, match=r"run a cannot be written.*full"):
        outbox.put_all(drafts)
    assert [entry.run_uid for entry in outbox.entries()] == ["before"]


def test_what_is_there_already_is_handed_back_as_it_is(outbox):
    outbox.put(submission("a"))
    drafts = [Draft(submission("a")), Draft(submission("a", "flow/two"))]
    [present] = outbox.put_all(drafts)
    assert (present.key, present.submission) == (submission("a").key, submission("a"))
    assert outbox.counts() == OutboxCounts(waiting=2)


def test_what_was_declined_is_never_sent_and_pruned_as_what_was_sent(outbox, clock):
    outbox.put_all([Draft(submission("a"), "declined", "when= refused the run")])
    key = submission("a").key
    assert taken(outbox) is None
    assert not outbox.retry(key)
    assert outbox.counts() == OutboxCounts(declined=1)
    assert outbox.declined([key, "other"]) == {key}
    assert outbox.oldest_unsent(1) == outbox.named("a", unsent=True) == []
    clock.now += 31 * 86400
    assert outbox.prune(30) == 1
    assert outbox.counts() == OutboxCounts()


def test_what_was_declined_and_is_wanted_later_is_sent(outbox):
    outbox.put_all([Draft(submission("a"), "declined")])
    assert outbox.put(submission("a"), api_url=A)
    assert not outbox.put(submission("a"), api_url=A)
    [entry] = outbox.entries()
    assert (entry.state, entry.api_url) == ("waiting", A)


def test_what_waits_or_was_sent_is_not_declined_afterwards(outbox):
    outbox.put(submission("a"))
    [present] = outbox.put_all([Draft(submission("a"), "declined")])
    assert present.state == "waiting"
    assert outbox.declined([submission("a").key]) == set()


def test_many_are_asked_at_once_whether_they_were_declined(outbox):
    outbox.put_all([Draft(submission(str(number)), "declined") for number in range(1200)])
    keys = [submission(str(number)).key for number in range(2000)]
    assert outbox.declined(keys) == set(keys[:1200])


def test_a_submission_is_taken_for_the_address_it_was_put_in_for_only(outbox):
    for uid, address in {"a": A, "b": B, "any": None}.items():
        outbox.put(submission(uid), api_url=address)
    order = []
    while entry := outbox.take(A):
        order.append(entry.run_uid)
    assert order == ["a"]  # it is being sent; those behind it wait
    outbox.mark_sent(submission("a").key, "id", "name")
    assert outbox.take(A).run_uid == "any"
    assert outbox.take(A) is outbox.take(None) is None
    assert outbox.take(B).run_uid == "b"


def test_what_is_for_any_server_keeps_its_place_among_the_others(outbox):
    for number in range(KEPT_IN_ORDER + 4):
        outbox.put(submission(str(number)), api_url=(A, None, B)[number % 3])
    order = []
    while entry := outbox.take(A):
        order.append(int(entry.run_uid))
        outbox.mark_sent(entry.key, "id", "name")
    assert order == [number for number in range(KEPT_IN_ORDER + 4) if number % 3 < 2]


def test_every_other_one_of_a_backlog_is_the_newest_for_this_server(outbox):
    for number in range(3 * KEPT_IN_ORDER):
        outbox.put(submission(str(number)), api_url=(A, B)[number % 2])
    order = []
    for _ in range(4):
        entry = outbox.take(A)
        order.append(int(entry.run_uid))
        outbox.mark_sent(entry.key, "id", "name")
    last = 3 * KEPT_IN_ORDER - 2
    assert order == [0, last, 2, last - 2]


def test_a_backlog_of_another_server_costs_taking_nothing(tmp_path):
    def cost(waiting: int) -> int:
        box = Outbox(tmp_path / f"{waiting}.sqlite")
        box.put_all([Draft(submission(f"b-{number}")) for number in range(waiting)], api_url=B)
        for number in range(5):
            box.put(submission(str(number)), api_url=A)
        hundreds = []
        box.counts()
        box._relaxed._connection.set_progress_handler(lambda: hundreds.append(1), 100)
        while entry := box.take(A):
            box.mark_sent(entry.key, "id", "name")
        box.close()
        return len(hundreds)

    assert cost(2000) <= 1.2 * cost(20)


def test_what_is_not_sent_is_counted_by_deployment_since_the_first(outbox, clock):
    first = clock.now
    outbox.put(submission("a", "flow/one"))
    outbox.put(submission("sent", "flow/two"))
    clock.now += 10
    outbox.put(submission("b", "flow/one"))
    outbox.put(submission("dead", "flow/one"), dead="why")
    outbox.put(submission("c", "flow/two"))
    outbox.mark_sent("sent:flow/two")
    assert sorted(outbox.unsent_by_deployment(), key=str) == [
        Unsent("flow/one", "dead", 1, first + 10),
        Unsent("flow/one", "waiting", 2, first),
        Unsent("flow/two", "waiting", 1, first + 10),
    ]


def test_a_backlog_is_moved_to_another_address_on_purpose(outbox):
    for uid, address in {"a": A, "b": B, "any": None, "dead": A, "sent": A}.items():
        outbox.put(submission(uid), api_url=address, dead="why" if uid == "dead" else None)
    rewrite(outbox, "UPDATE entries SET state = 'sent' WHERE run_uid = 'sent'")
    assert outbox.unsent_by_address() == {None: 1, A: 2, B: 1}
    assert outbox.move(B, source=A) == 2
    assert outbox.unsent_by_address() == {None: 1, B: 3}
    assert outbox.move("http://c.example/api") == 3
    assert outbox.unsent_by_address() == {None: 1, "http://c.example/api": 3}
    [sent] = outbox.entries(state="sent")
    assert sent.api_url == A


def test_what_is_being_sent_is_not_moved_to_another_address(outbox, clock):
    outbox.put(submission("a"), api_url=A)
    outbox.take(A)
    assert outbox.move(B) == 0
    clock.now += 61
    assert outbox.move(B) == 1


PUT_FOR_EVER = """
import sys, time
from pathlib import Path
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.core._submission import Submission
outbox = Outbox(Path(sys.argv[1]))
for number in range(1_000_000):
    time.sleep(float(sys.argv[3]))
    uid = f"{sys.argv[2]}-{number}"
    outbox.put(Submission(uid, "w", "flow/one", uid, {"text": "x" * 2000}, {}))
    print(uid, flush=True)
"""


def _put_for_ever(path: Path, name: str, pause_s: float = 0.0) -> subprocess.Popen:
    command = [sys.executable, "-c", PUT_FOR_EVER, str(path), name, str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_put_returned_from_survives_kill_9(tmp_path):
    path = tmp_path / "outbox.sqlite"
    for round_ in range(3):
        process = _put_for_ever(path, str(round_))
        said = [process.stdout.readline().strip() for _ in range(20 + 7 * round_)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
        process.wait()
        process.stdout.close()
        outbox = Outbox(path)
        kept = {entry.run_uid for entry in outbox.entries(limit=100_000)}
        assert set(said) <= kept
        outbox.close()


def test_several_processes_put_into_one_file(tmp_path):
    path = tmp_path / "outbox.sqlite"
    # A pause as between the runs of very fast scans: SQLite's lock is not fair to one of several that never let go.
    processes = [_put_for_ever(path, name, pause_s=0.01) for name in "abc"]
    said = [process.stdout.readline().strip() for process in processes for _ in range(50)]
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    outbox = Outbox(path)
    assert set(said) <= {entry.run_uid for entry in outbox.entries(limit=100_000)}
    outbox.close()


TAKE_AND_WAIT = """
import sys, time
from pathlib import Path
from bluesky_prefect.outbox import Outbox
print(Outbox(Path(sys.argv[1])).take().key, flush=True)
time.sleep(100)
"""


def test_the_lease_of_a_killed_process_is_free_at_once(outbox):
    outbox.put(submission("a"))
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_AND_WAIT, str(outbox.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == submission("a").key
    live = Outbox(outbox.path)
    assert live.take() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert taken(live) == "a"
    live.close()


SEND_ALL = """
import os, sys
from pathlib import Path
from bluesky_prefect.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
sent = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print("ready", flush=True)
while entry := outbox.take():
    os.write(sent, (entry.run_uid + "\\n").encode())
    outbox.mark_sent(entry.key, "id", "name")
"""


def test_processes_killed_while_they_send_repeat_only_what_was_on_its_way(outbox, tmp_path):
    uids = [str(number) for number in range(600)]
    fill(outbox, uids)
    command = [sys.executable, "-c", SEND_ALL, str(outbox.path), str(tmp_path / "sent")]
    kills = 0
    while outbox.counts().waiting:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        before = outbox.counts()
        # Killed somewhere in its work: after so many of its submissions.
        while outbox.counts().sent < before.sent + 90 and process.poll() is None:
            pass
        process.kill()
        kills += process.wait() != 0
        process.stdout.close()
    sent = (tmp_path / "sent").read_text().split()
    assert kills >= 3
    assert set(sent) == set(uids)
    assert len(sent) - len(uids) <= kills


def test_the_outbox_in_memory_does_the_same_without_a_file(clock):
    outbox = Outbox(None, clock=clock)
    outbox.put(submission("a"))
    assert taken(outbox) == "a"
    outbox.mark_sent(submission("a").key, "id", "name")
    assert outbox.counts() == OutboxCounts(sent=1)
    outbox.close()


def test_an_outbox_that_nobody_closed_is_closed_with_its_last_reference(tmp_path):
    # From Python 3.13 on, SQLite's connections warn of it if they are left to the garbage collector.
    script = """
import gc, sys
from pathlib import Path
from bluesky_prefect.outbox import Outbox

sys.unraisablehook = lambda unraisable: print(unraisable.exc_value)
for path in (Path(sys.argv[1]), None):
    outbox = Outbox(path)
    outbox.counts()
    del outbox
gc.collect()
"""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", script, str(tmp_path / "outbox.sqlite")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_all_who_open_a_new_outbox_at_the_same_moment_put_their_runs(tmp_path):
    for number in range(40):
        path, many = tmp_path / f"{number}.sqlite", 4
        together = threading.Barrier(many)

        def put(name, path=path, together=together):
            with closing(Outbox(path)) as outbox:
                together.wait()
                return outbox.put(submission(name))

        with ThreadPoolExecutor(many) as pool:
            assert all(pool.map(put, map(str, range(many))))
