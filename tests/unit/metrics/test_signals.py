"""What threads say of their work, and what is made of it."""

import threading

from bluesky_prefect.metrics import Contact, Reachability, Signals
from bluesky_prefect.metrics._signals import _SLACK_S


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


def test_nothing_is_known_of_a_server_before_anybody_has_asked_it():
    assert Reachability().last is None


def test_a_server_is_away_since_the_first_who_did_not_reach_it():
    clock = Clock()
    server = Reachability(clock)
    server.up()
    clock.now += 10
    server.down("refused")
    clock.now += 10
    server.down("timed out")
    assert server.last == Contact(False, 1_010.0, "timed out")
    server.up()
    clock.now += 10
    server.up()
    assert server.last == Contact(True, 1_020.0)


def test_a_thread_that_has_ended_is_a_problem():
    signals = Signals()
    thread = threading.Thread(target=signals.at_work, args=[0.0], name="sender")
    thread.start()
    thread.join()
    assert signals.problems() == ["The thread sender has ended."]


def test_a_thread_that_waits_as_long_as_it_said_is_none_and_one_that_hangs_is():
    clock = Clock()
    signals = Signals(clock)
    signals.at_work(3600)
    clock.now += 3600
    assert signals.problems() == []
    clock.now += _SLACK_S + 1
    assert signals.problems() == [f"The thread MainThread has hung for {_SLACK_S + 1:.0f} s."]
    signals.at_work(0)
    assert signals.problems() == []


def test_a_trouble_is_a_problem_until_it_is_over():
    signals = Signals()
    signals.trouble("outbox", "The disk is full.")
    signals.trouble("outbox", "The disk is still full.")
    assert signals.problems() == ["The disk is still full."]
    signals.trouble("outbox", None)
    signals.trouble("outbox", None)
    assert signals.problems() == []
