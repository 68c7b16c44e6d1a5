"""Calls that nothing can cancel, such as name look-ups."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def on_daemon_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a function on a thread of its own, and return the future of its result.

    Whoever waits no longer leaves the thread behind: unlike those of a pool, it keeps neither an event loop nor the
    process from ending.
    """
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()  # a cancelled one could not be settled

    def run() -> None:
        try:
            outcome.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"bluesky-prefect-{call.__name__}", daemon=True).start()
    return outcome
