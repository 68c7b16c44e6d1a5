"""What nothing can cancel is left behind."""

import threading

import pytest

from bluesky_prefect.core import on_daemon_thread


def test_the_result_or_the_error_comes_to_whoever_waits():
    assert on_daemon_thread(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        on_daemon_thread(divmod, 7, 0).result(5)


def test_what_takes_too_long_is_left_behind_and_ends_quietly():
    release = threading.Event()
    outcome = on_daemon_thread(release.wait, timeout=30)
    assert not outcome.cancel()
    with pytest.raises(TimeoutError):
        outcome.result(0.01)
    release.set()
    assert outcome.result(5)
