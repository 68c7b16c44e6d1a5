"""What the forwarder promises, with real outboxes and an API that does as it is told."""

import itertools
import logging
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext

import pytest

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import DeploymentMissing, PrefectUnavailable, Submission, SubmissionRefused
from bluesky_prefect.courier import Forwarder
from bluesky_prefect.courier._courier_lock import only_courier
from bluesky_prefect.courier._forwarder import POLL_S
from bluesky_prefect.journal import Journal, JournalDirectory
from bluesky_prefect.outbox import Draft, OutboxCounts
from bluesky_prefect.prefect_api import FlowRunRef
from tests.services.prefect_process import wait_until


class ToldApi:
    """Answers with what stands in `answers`, then accepts everything."""

    api_url: str | None = None

    def __init__(self) -> None:
        self.answers: list[Exception] = []
        self.troubles: dict[str, Exception] = {}
        self.accepted: list[str] = []
        self.live: list[str] = []
        self.checked: list[str] = []
        self.prepared: list[list[str]] = []
        self.asked = 0
        self.arrived = threading.Condition()

    def check(self, deployment: str) -> None:
        with self.arrived:
            self.checked.append(deployment)
            self.arrived.notify_all()
            if trouble := self.troubles.get(deployment):
                raise trouble

    def prepare_notifications(self, notices: Sequence[str]) -> None:
        self.prepared.append(list(notices))

    def create_flow_run(self, submission: Submission, *, live: bool = False) -> FlowRunRef:
        with self.arrived:
            self.asked += 1
            self.arrived.notify_all()
            if trouble := self.troubles.get(submission.run_uid):
                raise trouble
            if self.answers:
                raise self.answers.pop(0)
            self.accepted.append(submission.run_uid)
            self.live += [submission.run_uid] if live else []
            return FlowRunRef("id-" + submission.run_uid, "name")

    def tell(self, submission: Submission) -> None:
        self.create_flow_run(submission)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def submission(uid: str, deployment: str = "flow/one") -> Submission:
    return Submission(f"{uid}:{deployment}", deployment, deployment, uid)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def api():
    return ToldApi()


@pytest.fixture
def disk(tmp_path, clock):
    outbox = Outbox(tmp_path / "outbox.sqlite", clock=clock)
    yield outbox
    outbox.close()


@pytest.fixture
def memory(clock):
    outbox = Outbox(None, clock=clock)
    yield outbox
    outbox.close()


@pytest.fixture
def forwarder(disk, memory, api, clock, tmp_path):
    settings = Settings(state_directory=tmp_path, missing_deployment_retry_s=60, retry_initial_s=1)
    return Forwarder([disk, memory], settings, connect=lambda: nullcontext(api), clock=clock)


def run_for(forwarder, clock, seconds):
    """Let the forwarder do what it would do in `seconds`."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += max(forwarder.step(), 0.001)


def test_a_submission_is_sent_and_its_flow_run_recorded(forwarder, disk, api):
    disk.put(submission("a"))
    assert forwarder.step() == 0.0
    [entry] = disk.entries()
    assert (entry.state, entry.flow_run_id, entry.flow_run_name) == ("sent", "id-a", "name")


def test_an_outage_is_retried_until_it_ends_and_the_order_kept(forwarder, disk, api, clock):
    for uid in "abc":
        disk.put(submission(uid))
    api.answers = [PrefectUnavailable("refused") for _ in range(50)]
    run_for(forwarder, clock, 60 * 70)
    assert api.accepted == ["a", "b", "c"]


def test_what_was_kept_through_an_outage_is_not_live_and_the_run_just_taken_is(forwarder, disk, api, clock):
    disk.put(submission("kept"))
    api.answers = [PrefectUnavailable("refused") for _ in range(10)]
    run_for(forwarder, clock, 300)
    disk.put(submission("fresh"))
    run_for(forwarder, clock, 1)
    assert api.accepted == ["kept", "fresh"]
    assert api.live == ["fresh"]


def test_a_moment_s_trouble_makes_no_backlog(forwarder, disk, api, clock):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("503") for _ in range(3)]
    run_for(forwarder, clock, 30)
    assert api.live == ["a"]


def test_a_clock_that_is_minutes_off_or_set_back_makes_no_backlog(forwarder, disk, api, clock):
    for uid, off_s in (("behind", -300.0), ("ahead", 86400.0)):
        disk.put(Submission(uid, "w", "flow/one", uid, {}, {"time": clock.now + off_s}))
    clock.now -= 3600  # somebody sets it back
    run_for(forwarder, clock, 1)
    assert sorted(api.live) == ["ahead", "behind"]


def test_a_run_of_the_past_that_a_listener_finds_goes_behind_the_one_just_taken(forwarder, disk, api, clock):
    disk.put(Submission("k", "w", "flow/one", "old", {}, {"time": clock.now - 2 * 86400}))
    disk.put(Submission("l", "w", "flow/one", "new", {}, {"time": clock.now - 1}))
    run_for(forwarder, clock, 1)
    assert (sorted(api.accepted), api.live) == (["new", "old"], ["new"])


def test_the_waits_of_an_outage_grow_to_the_limit_and_not_beyond(forwarder, disk, api, clock):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("refused") for _ in range(20)]
    waits = []
    for _ in range(20):
        waits.append(forwarder.step())
        clock.now += waits[-1]
    assert 1 <= waits[0] <= 2
    assert waits[3] > waits[0]
    assert max(waits) <= 60 + 1


def test_an_error_that_nobody_foresaw_is_told_with_its_place_on_one_line(forwarder, disk, api, caplog):
    disk.put(submission("a"))
    api.answers = [RuntimeError("x\nERROR forged \x1b[2J \u202e")]
    with caplog.at_level(logging.DEBUG):
        forwarder.step()
    [entry] = disk.entries()
    assert entry.reason == r"RuntimeError: x\nERROR forged \u001b[2J \u202e"
    assert len(caplog.text.splitlines()) == len(caplog.records) == 1
    assert "test_forwarder.py:" in caplog.text


def test_prefect_is_left_alone_as_long_as_it_asks_and_the_longest_wait_allows(forwarder, disk, api):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("429", retry_after_s=30)]
    assert forwarder.step() == 30


@pytest.mark.parametrize("asked_s", [1e12, float("inf"), float("nan")])
def test_no_answer_of_a_server_ends_the_sending(forwarder, disk, api, clock, asked_s):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("429", retry_after_s=asked_s)]
    run_for(forwarder, clock, 3700)
    assert api.accepted == ["a"]


def test_a_missing_deployment_is_waited_for_and_holds_up_no_other(forwarder, disk, api, clock, caplog):
    disk.put(submission("a", "flow/missing"))
    disk.put(submission("b", "flow/one"))
    api.troubles["a"] = DeploymentMissing("Prefect has no deployment 'flow/missing'. Create it")
    with caplog.at_level(logging.WARNING):
        run_for(forwarder, clock, 600)
    assert api.accepted == ["b"]
    assert sum("flow/missing" in record.getMessage() for record in caplog.records) == 1
    del api.troubles["a"]
    run_for(forwarder, clock, 61)
    assert api.accepted == ["b", "a"]


def test_a_refused_submission_is_a_dead_letter_and_the_rest_goes_on(forwarder, disk, api, clock):
    disk.put(submission("a"))
    disk.put(submission("b"))
    api.troubles["a"] = SubmissionRefused("requires sample")
    run_for(forwarder, clock, 10)
    assert api.accepted == ["b"]
    [dead] = disk.entries(state="dead")
    assert dead.reason == "requires sample"


def test_a_submission_that_prefect_chokes_on_does_not_hold_up_the_rest(forwarder, disk, api, clock):
    disk.put(submission("a"))
    disk.put(submission("b"))
    api.troubles["a"] = PrefectUnavailable("500", submission_specific=True)
    run_for(forwarder, clock, 1)
    assert api.accepted == ["b"]
    run_for(forwarder, clock, 3600)
    assert disk.counts() == OutboxCounts(waiting=1, sent=1)


OWN = {"submission_specific": True, "server_responded": True}


def test_a_prefect_that_takes_nothing_new_is_not_hammered(forwarder, disk, api, clock):
    for number in range(600):
        disk.put(submission(f"{number}", f"flow/{number % 3}"))
        api.troubles[f"{number}"] = PrefectUnavailable("500: the disk is full", **OWN)
    run_for(forwarder, clock, 3600)
    # At most one each minute for each of three deployments, once that has grown to a minute.
    assert api.asked < 3 * 80
    api.troubles.clear()
    run_for(forwarder, clock, 200)
    assert len(api.accepted) == len(set(api.accepted)) == 600


def test_a_deployment_in_trouble_does_not_delay_a_fresh_run_of_another(forwarder, disk, api, clock):
    for number in range(50):
        disk.put(submission(f"{number}", "flow/broken"))
        api.troubles[f"{number}"] = PrefectUnavailable("500", **OWN)
    run_for(forwarder, clock, 600)
    disk.put(submission("fresh"))
    forwarder.step()
    forwarder.step()
    assert api.accepted == ["fresh"]


def test_a_submission_that_alone_is_told_to_wait_stands_aside_after_a_while(forwarder, disk, api, clock):
    disk.put(submission("a"))
    disk.put(submission("b"))
    api.troubles["a"] = PrefectUnavailable("503", busy=True, **OWN)
    run_for(forwarder, clock, 30)
    assert api.accepted == []
    run_for(forwarder, clock, 300)
    assert api.accepted == ["b"]


def test_a_submission_that_stands_aside_is_told_once(forwarder, disk, api, clock, caplog):
    disk.put(submission("a"))
    api.troubles["a"] = PrefectUnavailable("Prefect answers 500: ?", **OWN)
    run_for(forwarder, clock, 3600)
    [told] = [record.getMessage() for record in caplog.records]
    assert told == "Run a: a:flow/one is tried again later, others go on: Prefect answers 500: ?"


def test_a_prefect_that_cannot_be_imported_is_told_once_and_every_run_waits(disk, api, clock, tmp_path, caplog):
    broken = True

    def connect():
        if broken:
            raise ImportError("no module named anyio")
        return nullcontext(api)

    forwarder = Forwarder([disk], Settings(state_directory=tmp_path), connect=connect, clock=clock)
    for uid in "abc":
        disk.put(submission(uid))
    run_for(forwarder, clock, 1800)
    [told] = [record.getMessage() for record in caplog.records]
    assert "Prefect cannot be imported: ImportError: no module named anyio" in told
    broken = False
    run_for(forwarder, clock, 120)
    assert api.accepted == ["a", "b", "c"]


def test_an_error_nobody_thought_of_loses_nothing(forwarder, disk, api, clock):
    disk.put(submission("a"))
    api.answers = [ZeroDivisionError("?")]
    run_for(forwarder, clock, 60)
    assert api.accepted == ["a"]


def test_an_outage_is_told_at_its_beginning_and_its_end_only(forwarder, disk, api, clock, caplog):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("refused") for _ in range(30)]
    with caplog.at_level(logging.WARNING):
        run_for(forwarder, clock, 3600)
    assert len(caplog.records) == 2


def test_an_outage_of_a_moment_is_not_told(forwarder, disk, api, clock, caplog):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("503")]
    with caplog.at_level(logging.WARNING):
        run_for(forwarder, clock, 60)
    assert api.accepted == ["a"]
    assert caplog.records == []


def test_a_session_that_begins_in_an_outage_tells_of_it_once(tmp_path, caplog):
    attempts = []

    def connect():
        attempts.append(1)
        raise PrefectUnavailable("refuses the credentials", transient=False)

    looks = itertools.count(step=3)

    def hasty():  # each look at the clock is 3 s later: the warm-up is due at once
        return float(next(looks))

    settings = Settings(state_directory=tmp_path, retry_initial_s=0.01, retry_max_s=0.02)
    outbox = Outbox(settings.outbox_path)
    outbox.put(submission("a"))
    forwarder = Forwarder([outbox], settings, deployments=["flow/one"], connect=connect, clock=hasty)
    with caplog.at_level(logging.WARNING):
        forwarder.start()
        wait_until(lambda: len(attempts) >= 2)
        forwarder.close()
    outbox.close()
    assert len([one for one in caplog.records if "refuses the credentials" in one.getMessage()]) == 1


def test_what_somebody_has_to_mend_is_told_at_once(forwarder, disk, api, caplog):
    disk.put(submission("a"))
    api.answers = [PrefectUnavailable("check PREFECT_API_URL", transient=False)]
    with caplog.at_level(logging.WARNING):
        forwarder.step()
    assert "check PREFECT_API_URL" in caplog.text


def test_what_waits_in_memory_is_moved_to_the_disk(forwarder, disk, memory, api):
    memory.put(submission("a"))
    api.answers = [PrefectUnavailable("refused")]
    forwarder.step()
    assert disk.counts() == OutboxCounts(waiting=1)
    assert memory.counts() == OutboxCounts()


def test_a_dead_letter_in_memory_is_moved_to_the_disk(forwarder, disk, memory):
    memory.put(submission("a"), dead="parameters= failed")
    forwarder.step()
    [dead] = disk.entries(state="dead")
    assert (dead.run_uid, dead.reason) == ("a", "parameters= failed")
    assert memory.counts() == OutboxCounts()


def test_much_that_waits_in_memory_is_moved_in_its_order(forwarder, disk, memory, api):
    uids = [str(number) for number in range(250)]
    for uid in uids:
        memory.put(submission(uid))
    api.answers = [PrefectUnavailable("refused") for _ in range(3)]
    for _ in range(3):
        forwarder.step()
    assert [entry.run_uid for entry in reversed(disk.entries())] == uids
    assert memory.counts() == OutboxCounts()


@pytest.fixture
def refusing_disk(tmp_path, clock):
    (tmp_path / "state").write_text("a file where the directory should be")
    return Outbox(tmp_path / "state" / "outbox.sqlite", clock=clock)


def test_a_run_that_the_disk_has_no_room_for_is_sent_before_those_on_it(forwarder, disk, memory, api):
    for uid in "abc":
        disk.put(submission(uid))
    with sqlite3.connect(disk.path) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    connection.close()
    memory.put(submission("endangered"))
    forwarder.step()
    assert api.accepted == ["endangered"]


def test_what_was_sent_from_memory_is_not_kept_there(refusing_disk, memory, api, clock, tmp_path):
    settings = Settings(state_directory=tmp_path / "state")
    forwarder = Forwarder([refusing_disk, memory], settings, connect=lambda: nullcontext(api), clock=clock)
    for number in range(20):
        memory.put(submission(str(number)))
    run_for(forwarder, clock, 10)
    assert len(api.accepted) == 20
    assert memory.counts() == OutboxCounts()


def start_in_an_outage(forwarder, memory, api):
    api.troubles["a"] = PrefectUnavailable("refused")
    memory.put(submission("a"))
    forwarder.start()
    with api.arrived:
        assert api.arrived.wait_for(lambda: api.asked > 0, timeout=10)


def test_a_session_that_ends_with_runs_in_memory_names_them(refusing_disk, memory, api, clock, tmp_path, caplog):
    settings = Settings(state_directory=tmp_path / "state")
    forwarder = Forwarder([refusing_disk, memory], settings, connect=lambda: nullcontext(api), clock=clock)
    start_in_an_outage(forwarder, memory, api)
    assert forwarder.close(timeout_s=10)
    [lost] = [record.getMessage() for record in caplog.records if "lost with this session" in record.getMessage()]
    assert "on the runs a." in lost


def test_a_session_that_ends_in_an_outage_moves_its_memory_to_the_disk(refusing_disk, memory, api, clock, tmp_path):
    settings = Settings(state_directory=tmp_path / "state")
    forwarder = Forwarder([refusing_disk, memory], settings, connect=lambda: nullcontext(api), clock=clock)
    start_in_an_outage(forwarder, memory, api)
    (tmp_path / "state").unlink()
    assert forwarder.close(timeout_s=10)
    assert refusing_disk.counts() == OutboxCounts(waiting=1)
    refusing_disk.close()


def test_what_waits_in_memory_is_sent_while_the_disk_refuses(tmp_path, memory, api, clock):
    (tmp_path / "state").write_text("a file where the directory should be")
    disk = Outbox(tmp_path / "state" / "outbox.sqlite", clock=clock)
    settings = Settings(state_directory=tmp_path / "state")
    forwarder = Forwarder([disk, memory], settings, connect=lambda: nullcontext(api), clock=clock)
    memory.put(submission("a"))
    run_for(forwarder, clock, 10)
    assert api.accepted == ["a"]


def test_sent_submissions_are_pruned_after_their_age(forwarder, disk, clock):
    disk.put(submission("a"))
    run_for(forwarder, clock, 5)
    clock.now += 31 * 86400
    forwarder.step()
    assert disk.counts() == OutboxCounts()


def test_a_submission_that_this_version_cannot_read_is_left_for_others(forwarder, disk, api, clock):
    disk.put(submission("a"))
    disk.put(submission("b"))
    with sqlite3.connect(disk.path) as connection:
        connection.execute("""UPDATE entries SET submission = '{"from": "the future"}' WHERE run_uid = 'a'""")
    connection.close()
    run_for(forwarder, clock, 10)
    assert api.accepted == ["b"]
    assert disk.counts() == OutboxCounts(waiting=1, sent=1)


def test_a_run_that_ends_during_a_backlog_is_sent_among_the_next_two(forwarder, disk, api, clock):
    for number in range(300):
        disk.put(submission(f"old-{number}"))
    for _ in range(10):
        forwarder.step()
    disk.put(submission("fresh"))
    forwarder.step()
    forwarder.step()
    assert "fresh" in api.accepted
    run_for(forwarder, clock, 10)
    assert len(api.accepted) == len(set(api.accepted)) == 301


def test_after_a_failed_write_the_submission_is_sent_under_the_same_key(forwarder, disk, api, clock, tmp_path):
    disk.put(submission("a"))
    blocker = sqlite3.connect(tmp_path / "outbox.sqlite")
    blocker.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE OF flow_run_id ON entries WHEN NEW.state = 'sent' "
        "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    forwarder.step()
    assert disk.counts() == OutboxCounts(waiting=1)
    blocker.execute("DROP TRIGGER refuse")
    blocker.close()
    clock.now += 300
    run_for(forwarder, clock, 300)
    assert api.accepted == ["a", "a"]
    assert disk.counts() == OutboxCounts(sent=1)


A, B = "http://a.example/api", "http://b.example/api"


def test_a_submission_for_another_server_waits_and_is_told_once(forwarder, disk, memory, api, clock, caplog):
    api.api_url = B
    disk.put(submission("a"), api_url=A)
    disk.put(submission("b"), api_url=B)
    disk.put(submission("any"))
    run_for(forwarder, clock, 30)
    assert api.accepted == ["b", "any"]
    assert caplog.records == []  # its own session may be about to send it
    run_for(forwarder, clock, 600)
    [told] = [record.getMessage() for record in caplog.records]
    for words in ("1 submission", A, B, f"bluesky-prefect outbox move --from {A} --to URL"):
        assert words in told
    [entry] = disk.entries(run_uid="a")
    assert (entry.state, entry.attempts) == ("waiting", 0)
    disk.move(B)
    run_for(forwarder, clock, 10)
    assert api.accepted == ["b", "any", "a"]


def test_what_waits_in_memory_keeps_its_address_on_the_way_to_disk(forwarder, disk, memory, api):
    api.api_url = B
    memory.put(submission("a"), api_url=A)
    forwarder.step()
    [entry] = disk.entries()
    assert (entry.run_uid, entry.api_url, api.accepted) == ("a", A, [])


def test_a_refusal_in_memory_is_moved_to_the_disk(forwarder, disk, memory):
    memory.put_all([Draft(submission("a"), "declined")])
    forwarder.step()
    assert disk.declined(["a:flow/one"]) == {"a:flow/one"}


def test_what_a_session_of_an_older_version_put_beside_the_outbox_is_sent_once(forwarder, disk, api, clock, tmp_path):
    beside = Outbox(tmp_path / "outbox.format-1.sqlite", clock=clock)
    beside.put(submission("a"))
    run_for(forwarder, clock, 5)
    assert api.accepted == ["a"]
    beside.put(submission("b"))  # it is open still
    run_for(forwarder, clock, 70)
    assert api.accepted == ["a", "b"]
    assert beside.entries() == []
    beside.close()


def test_the_thread_sends_soon_after_it_is_woken_and_ends_when_told(forwarder, disk, api):
    forwarder.start()
    disk.put(submission("a"))
    forwarder.wake()
    with api.arrived:
        assert api.arrived.wait_for(lambda: api.accepted == ["a"], timeout=10)
    assert forwarder.close(timeout_s=10)


def test_closing_sends_what_can_be_sent(forwarder, disk, api):
    for number in range(20):
        disk.put(submission(str(number)))
    forwarder.start()
    assert forwarder.close(timeout_s=10)
    assert len(api.accepted) == 20


def test_closing_asks_a_busy_server_again(api, tmp_path):
    settings = Settings(state_directory=tmp_path, retry_initial_s=0.01)
    disk = Outbox(tmp_path / "outbox.sqlite")
    forwarder = Forwarder([disk], settings, connect=lambda: nullcontext(api))
    api.answers = [PrefectUnavailable("503", server_responded=True) for _ in range(3)]
    disk.put(submission("a"))
    forwarder.start()
    assert forwarder.close(timeout_s=10)
    disk.close()
    assert api.accepted == ["a"]


def test_closing_does_not_wait_for_an_outage_and_says_what_waits(forwarder, disk, api, caplog):
    disk.put(submission("a"))
    api.troubles["a"] = PrefectUnavailable("refused")
    forwarder.start()
    with api.arrived:
        assert api.arrived.wait_for(lambda: api.asked > 0, timeout=10)
    assert forwarder.close(timeout_s=10)
    assert disk.counts() == OutboxCounts(waiting=1)
    assert "Still to be sent: 1" in caplog.text


@pytest.fixture
def warmed_up(disk, api, clock, tmp_path):
    """Start a forwarder of two workflows in a session that takes no scan, and let it warm up."""

    def start() -> None:
        forwarder = Forwarder(
            [disk],
            Settings(state_directory=tmp_path),
            deployments=["flow/one", "flow/two", "flow/one"],
            notices=["failure:slack/mon-beamline"],
            connect=lambda: nullcontext(api),
            clock=clock,
        )
        forwarder.start()
        with api.arrived:
            for _ in range(200):  # the thread may look at the clock for the first time late
                clock.now += 6
                forwarder.wake()
                if api.arrived.wait_for(lambda: api.checked, timeout=0.05):
                    break
        assert forwarder.close(timeout_s=10)

    return start


def test_a_wrong_key_is_told_at_the_start_and_not_at_the_first_scan_s_end(warmed_up, api, caplog):
    api.troubles["flow/one"] = PrefectUnavailable("refuses the credentials: check PREFECT_API_KEY", transient=False)
    warmed_up()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "check PREFECT_API_KEY" in record.getMessage()
    assert api.checked == ["flow/one"]


def test_a_missing_deployment_is_told_at_the_start(warmed_up, api, caplog):
    api.troubles["flow/one"] = DeploymentMissing("has no deployment 'flow/one'")
    warmed_up()
    [record] = caplog.records
    assert "has no deployment 'flow/one'" in record.getMessage()
    assert api.checked == ["flow/one", "flow/two"]


def test_whoever_is_to_be_told_is_seen_to_at_the_start(warmed_up, api):
    warmed_up()
    assert api.prepared
    assert {tuple(notices) for notices in api.prepared} == {("failure:slack/mon-beamline",)}


def test_an_outage_at_the_start_is_not_told_while_nothing_waits_for_its_end(warmed_up, api, caplog):
    api.troubles["flow/one"] = PrefectUnavailable("refused")
    warmed_up()
    assert caplog.records == []


def test_a_child_that_could_start_no_thread_sends_at_its_next_run(disk, api, tmp_path, monkeypatch):
    forwarder = Forwarder([disk], Settings(state_directory=tmp_path), connect=lambda: nullcontext(api))
    forwarder.after_fork(in_child=True)
    disk.put(submission("a"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda *_: (_ for _ in ()).throw(RuntimeError("can't start")))
        forwarder.wake()
    forwarder.wake()
    assert forwarder.close(timeout_s=5)
    assert api.accepted == ["a"]


def journal(settings_path, uid):
    written = Journal(settings_path / "journals", uid)
    written.append("start", {"uid": uid})
    path = written.path
    written.close()
    return path


def test_what_a_run_starts_is_sent_once_tiled_has_the_run_and_others_do_not_wait(forwarder, disk, api, clock, tmp_path):
    path = journal(tmp_path, "a")
    disk.put(submission("a"))
    disk.put(submission("b"))
    run_for(forwarder, clock, 10)
    assert api.accepted == ["b"]

    JournalDirectory(tmp_path / "journals").deliver(path)
    run_for(forwarder, clock, 10)

    assert api.accepted == ["b", "a"]


def test_what_stands_aside_waits_for_its_run_too(forwarder, disk, api, clock, tmp_path):
    disk.put(submission("a"))
    disk.give_back(disk.take().key, "trouble", 0.0, aside=True)
    path = journal(tmp_path, "a")
    run_for(forwarder, clock, 10)
    assert api.accepted == []

    JournalDirectory(tmp_path / "journals").deliver(path)
    run_for(forwarder, clock, 10)

    assert api.accepted == ["a"]


@pytest.fixture
def beside_a_courier(disk, memory, api, clock, tmp_path):
    """A forwarder that stands by, beside the courier of a Prefect."""

    @contextmanager
    def make(prefect):
        settings = Settings(state_directory=tmp_path)
        connected = []

        def connect():
            connected.append(True)
            return nullcontext(api)

        with only_courier(settings, prefect=prefect, tiled=""):
            yield Forwarder([disk, memory], settings, stands_by=True, connect=connect, clock=clock), connected

    return make


def test_beside_a_courier_a_session_sends_nothing_and_does_not_even_connect(
    beside_a_courier, disk, api, clock, monkeypatch
):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    disk.put(submission("a"))
    with beside_a_courier("http://prefect:4200/api") as (forwarder, connected):
        run_for(forwarder, clock, 30)
        assert (api.accepted, connected) == ([], [])
    run_for(forwarder, clock, 5)
    assert api.accepted == ["a"]


def test_beside_the_courier_of_another_prefect_a_session_sends_itself(beside_a_courier, disk, api, clock, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    disk.put(submission("a"))
    with beside_a_courier("http://another:4200/api") as (forwarder, _):
        run_for(forwarder, clock, 5)
    assert api.accepted == ["a"]


def test_what_only_memory_holds_is_sent_by_its_session_beside_a_courier(
    beside_a_courier, memory, api, clock, monkeypatch, tmp_path
):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    (tmp_path / "outbox.sqlite").mkdir()  # the disk does not take it
    memory.put(submission("a"))
    with beside_a_courier("http://prefect:4200/api") as (forwarder, _):
        run_for(forwarder, clock, 5)
    assert api.accepted == ["a"]


@pytest.mark.parametrize("uid", ["a", "\N{SNOWMAN}" * 100])
def test_a_run_that_began_while_the_outbox_was_waited_for_is_held_too(
    uid, forwarder, disk, api, clock, tmp_path, monkeypatch
):
    path = journal(tmp_path, uid)
    disk.put(submission(uid))
    disk.put(submission("other"))
    # As it was a moment before the run began. Of the name of a long uid nobody knows the uid.
    monkeypatch.setattr(JournalDirectory, "undelivered_runs", lambda _: set())
    run_for(forwarder, clock, 10)
    assert api.accepted == ["other"]

    JournalDirectory(tmp_path / "journals").deliver(path)
    run_for(forwarder, clock, 10)
    assert api.accepted == ["other", uid]


def test_people_are_told_of_a_failed_run_before_tiled_has_it(forwarder, disk, api, tmp_path):
    journal(tmp_path, "a")
    disk.put(submission("a", "run-failure:slack/mon-beamline"))
    disk.put(submission("a"))
    assert forwarder.step() == 0.0
    assert forwarder.step() > 0.0
    assert api.accepted == ["a"]
    states = {entry.deployment: (entry.state, entry.flow_run_id) for entry in disk.entries()}
    assert states == {"run-failure:slack/mon-beamline": ("sent", None), "flow/one": ("waiting", None)}


def test_a_message_without_its_block_waits_and_holds_up_no_flow_run(forwarder, disk, api, clock, caplog):
    api.answers = [DeploymentMissing("Prefect has no notification block 'slack/mon-beamline'")]
    disk.put(submission("told", "run-failure:slack/mon-beamline"))
    disk.put(submission("a", "z/flow"))
    run_for(forwarder, clock, 70)
    assert api.accepted == ["a", "told"]
    assert "Run told waits: Prefect has no notification block" in caplog.text


def test_messages_whose_requests_hang_hold_up_no_flow_run(forwarder, disk, api, clock):
    def hang(_):
        clock.now += 10
        raise PrefectUnavailable("Prefect cannot be reached: ReadTimeout.", submission_specific=True)

    api.tell = hang
    for index in range(20):
        disk.put(submission(f"told{index}", "run-failure:slack/mon-beamline"))
        disk.put(submission(f"run{index}"))
    began = clock.now
    while len(api.accepted) < 20 and clock.now < began + 600:
        clock.now += max(forwarder.step(), 0.001)
    assert clock.now - began < 150


def test_the_more_runs_wait_the_less_often_it_is_looked_for_what_can_be_sent(
    forwarder, disk, clock, tmp_path, monkeypatch
):
    journal(tmp_path, "a")
    disk.put(submission("a"))
    assert forwarder.step() == POLL_S

    def many(_):
        clock.now += 0.3
        return {"a"}

    monkeypatch.setattr(JournalDirectory, "undelivered_runs", many)
    assert forwarder.step() == pytest.approx(3.0)


def test_a_message_that_nobody_answers_neither_ends_an_outage_nor_is_told_of_in_one(
    forwarder, disk, api, clock, caplog
):
    def hang(_):
        raise PrefectUnavailable("Prefect cannot be reached: ReadTimeout.", submission_specific=True)

    api.tell = hang
    api.troubles["a"] = PrefectUnavailable("Prefect cannot be reached: ConnectError.")
    disk.put(submission("a"))
    forwarder.step()
    for index in range(3):
        disk.put(submission(f"told{index}", "run-failure:slack/mon-beamline"))
    run_for(forwarder, clock, 120)
    assert caplog.messages == ["Run a waits in the outbox: Prefect cannot be reached: ConnectError."]
    del api.troubles["a"]
    run_for(forwarder, clock, 120)
    assert caplog.messages[1] == "Prefect answers again; sending what waits"


def test_whoever_watches_hears_of_each_submission_once_prefect_has_it(forwarder, disk, api, clock):
    heard = []
    forwarder.signals.listen(lambda entry, flow_run_id: heard.append((entry.run_uid, flow_run_id)))
    api.answers = [PrefectUnavailable("refused")]
    disk.put(submission("a"))
    disk.put(submission("b", "run-failure:slack/mon-beamline"))
    run_for(forwarder, clock, 60)
    assert sorted(heard) == [("a", "id-a"), ("b", None)]


def test_whoever_watches_hears_that_prefect_is_away_and_back(forwarder, disk, api, clock):
    api.answers = [PrefectUnavailable("refused")]
    disk.put(submission("a"))
    forwarder.step()
    assert (forwarder.signals.prefect.last.is_up, forwarder.signals.prefect.last.reason) == (False, "refused")
    run_for(forwarder, clock, 60)
    assert forwarder.signals.prefect.last.is_up


def test_one_submission_s_trouble_does_not_make_prefect_unreachable(forwarder, disk, api, clock):
    api.troubles["a"] = PrefectUnavailable("Prefect answers 500: ?", **OWN)
    disk.put(submission("a"))
    run_for(forwarder, clock, 60)
    assert forwarder.signals.prefect.last.is_up


def test_an_outbox_that_cannot_be_used_is_a_problem_until_it_can(forwarder, tmp_path):
    path = tmp_path / "outbox.sqlite"
    path.mkdir()
    forwarder.step()
    [problem] = forwarder.signals.problems()
    assert str(path) in problem
    path.rmdir()
    forwarder.step()
    assert forwarder.signals.problems() == []


def test_a_forwarder_whose_thread_is_at_work_has_no_problem(tmp_path):
    settings = Settings(state_directory=tmp_path)
    outbox = Outbox(settings.outbox_path)
    forwarder = Forwarder([outbox], settings, poll_s=0.01)
    forwarder.start()
    wait_until(lambda: forwarder.signals._at_work)
    assert forwarder.signals.problems() == []
    forwarder.close()
    assert forwarder.signals.problems() == ["The thread bluesky-prefect-forwarder has ended."]
    outbox.close()
