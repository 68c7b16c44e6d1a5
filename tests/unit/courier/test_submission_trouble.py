"""What a trouble with one submission does to the others; a forwarder's thread, and HTTP."""

import time
from contextlib import closing, contextmanager

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Submission
from bluesky_prefect.courier import Forwarder
from bluesky_prefect.outbox import OutboxCounts
from bluesky_prefect.prefect_api import PrefectApi
from tests.services.prefect_process import wait_until
from tests.services.prefect_stand_in import PrefectStandIn

OTHERS = [("b", "flow/one"), ("c", "flow/two"), ("d", "flow/two"), ("e", "flow/one")]
BAD = "bad:flow/one"


def submission(uid, deployment="flow/one"):
    return Submission(f"{uid}:{deployment}", deployment, deployment, uid)


def keys(names):
    return [f"{uid}:{deployment}" for uid, deployment in names]


@pytest.fixture
def prefect():
    with closing(PrefectStandIn().start()) as stand_in:
        yield stand_in


@pytest.fixture
def outbox(tmp_path):
    with closing(Outbox(tmp_path / "outbox.sqlite")) as outbox:
        yield outbox


@pytest.fixture
def sending(prefect, outbox, tmp_path):
    settings = Settings(state_directory=tmp_path, request_timeout_s=0.5, retry_max_s=3)

    @contextmanager
    def connect():
        with temporary_settings({PREFECT_API_URL: prefect.url}), PrefectApi(settings.request_timeout_s) as api:
            yield api

    forwarder = Forwarder([outbox], settings, connect=connect)
    forwarder.start()
    outbox.put(submission("first"))  # Prefect is imported, and its client made
    forwarder.wake()
    wait_until(lambda: prefect.created)
    yield forwarder
    assert forwarder.close(timeout_s=5)


def put(outbox, forwarder, names):
    for uid, deployment in names:
        outbox.put(submission(uid, deployment))
    forwarder.wake()


def meet_trouble(prefect, outbox, forwarder, status):
    """Have one submission meet trouble; return when others went, of another deployment and of its own, in seconds."""
    prefect.troubles[BAD] = status
    prefect.retry_after_s = 3600
    began = time.time()
    put(outbox, forwarder, [("bad", "flow/one"), *OTHERS])
    wait_until(lambda: set(keys(OTHERS)) <= set(prefect.created), timeout_s=10)
    return [max(prefect.created[key] for key in keys(OTHERS[a:b])) - began for a, b in [(1, 3), (3, 4)]]


@pytest.mark.parametrize("status", [500, 501, 502, 504, 403])
def test_a_submission_that_alone_meets_trouble_holds_up_no_other(prefect, outbox, sending, status):
    other_deployment_s, same_deployment_s = meet_trouble(prefect, outbox, sending, status)
    assert other_deployment_s < 1.0
    assert same_deployment_s < 2.5
    assert BAD not in prefect.created
    del prefect.troubles[BAD]
    wait_until(lambda: BAD in prefect.created, timeout_s=10)  # in place of an hour
    wait_until(lambda: outbox.counts() == OutboxCounts(sent=6))
    assert prefect.repeated == 0


@pytest.mark.parametrize("status", [429, 503])
def test_a_submission_told_to_wait_holds_up_its_deployment_once(prefect, outbox, sending, status):
    other_deployment_s, same_deployment_s = meet_trouble(prefect, outbox, sending, status)
    assert other_deployment_s < 1.0
    assert 3.0 <= same_deployment_s < 6.0  # retry_max_s, in place of an hour
    assert prefect.asked.count(BAD) == 2
    del prefect.troubles[BAD]
    wait_until(lambda: outbox.counts() == OutboxCounts(sent=6))


def test_a_submission_that_alone_meets_503_delays_no_other_deployment(prefect, outbox, sending):
    prefect.troubles[BAD] = 503
    put(outbox, sending, [("bad", "flow/one")])
    wait_until(lambda: prefect.asked.count(BAD) >= 4)
    began = time.time()
    put(outbox, sending, [("c", "flow/two")])
    wait_until(lambda: "c:flow/two" in prefect.created)
    assert prefect.created["c:flow/two"] - began < 1.0
    del prefect.troubles[BAD]
    wait_until(lambda: outbox.counts() == OutboxCounts(sent=3), timeout_s=10)


def test_an_hour_asked_for_outlives_neither_outage_nor_longest_wait(prefect, outbox, sending):
    prefect.down, prefect.retry_after_s = 503, 3600
    put(outbox, sending, OTHERS)
    wait_until(lambda: sum(entry.attempts for entry in outbox.entries()) == 1)
    prefect.down = None
    wait_until(lambda: outbox.counts() == OutboxCounts(sent=5), timeout_s=10)


def test_a_prefect_that_is_busy_as_a_whole_is_left_alone_for_as_long_as_it_asks(prefect, outbox, sending):
    prefect.down, prefect.retry_after_s = 429, 2
    put(outbox, sending, OTHERS)
    wait_until(lambda: sum(entry.attempts for entry in outbox.entries()) == 2)
    began = time.monotonic()
    prefect.down = None
    wait_until(lambda: outbox.counts() == OutboxCounts(sent=5))
    assert time.monotonic() - began > 1.5


def test_a_submission_that_is_never_answered_costs_the_others_little(prefect, outbox, sending):
    prefect.troubles[BAD] = 0
    put(outbox, sending, [("bad", "flow/one"), *OTHERS])
    wait_until(lambda: set(keys(OTHERS)) <= set(prefect.created), timeout_s=10)
    began, before = time.monotonic(), prefect.asked.count(BAD)
    wait_until(lambda: prefect.asked.count(BAD) >= before + 2, timeout_s=20)
    # Half a second each, and a rest of five times as long.
    assert time.monotonic() - began > 2.5
    del prefect.troubles[BAD]
    wait_until(lambda: outbox.counts() == OutboxCounts(sent=6), timeout_s=20)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_prefect_in_trouble_as_a_whole_is_waited_for_and_the_order_kept(prefect, outbox, sending, status):
    prefect.down = status
    names = [(f"{number:02d}", "flow/one") for number in range(20)]
    put(outbox, sending, names)
    wait_until(lambda: outbox.entries(run_uid="00")[0].attempts >= 3)
    assert {entry.run_uid for entry in outbox.entries() if entry.attempts} <= {"00"}
    prefect.down = None
    wait_until(lambda: outbox.counts().waiting == 0, timeout_s=20)
    assert list(prefect.created)[1:] == keys(names)


def test_a_moment_s_trouble_keeps_the_order_of_a_deployment(prefect, outbox, sending):
    prefect.troubles["00:flow/one"] = 500
    names = [(f"{number:02d}", "flow/one") for number in range(5)]
    put(outbox, sending, names)
    wait_until(lambda: "00:flow/one" in prefect.asked)
    del prefect.troubles["00:flow/one"]
    wait_until(lambda: outbox.counts().waiting == 0, timeout_s=20)
    assert list(prefect.created)[1:] == keys(names)


def test_a_session_that_ends_tries_a_submission_in_trouble_for_a_moment_more(prefect, outbox, sending):
    prefect.troubles[BAD] = 500
    put(outbox, sending, [("bad", "flow/one")])
    wait_until(lambda: BAD in prefect.asked)
    del prefect.troubles[BAD]
    assert sending.close(timeout_s=5)
    assert BAD in prefect.created
