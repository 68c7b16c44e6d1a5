"""Objects that pause while this process forks, so that the child finds them intact."""

import os
import threading
import weakref
from functools import lru_cache

# The longest that a fork waits for another thread, which may hang on a disk that does not answer.
TIMEOUT_S = 10.0


class ToldOfForks:
    """An object that is told before and after each fork; neither method may raise."""

    def before_fork(self) -> None:
        """Stand still until `after_fork`, if another thread may be at work on it; here nothing has to."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on, in the parent and in the child."""


class HeldLock(ToldOfForks):
    """Takes a lock for the time of a fork: the child has no thread that would ever free it."""

    def __init__(self, lock: "threading.Lock | threading.RLock") -> None:
        self._lock = lock
        self.held = False

    def before_fork(self) -> None:
        """Take the lock."""
        self.held = self._lock.acquire(timeout=TIMEOUT_S)

    def after_fork(self, *, in_child: bool) -> None:
        """Free the lock."""
        if self.held:
            self._lock.release()


def tell_of_forks(one: ToldOfForks) -> None:
    """Tell an object of each fork of this process, as long as it lives."""
    _register()
    _told.add(one)


_told: weakref.WeakSet[ToldOfForks] = weakref.WeakSet()
# Those that stand still now: others may be made while one of them is waited for.
_still: list[ToldOfForks] = []
# Two threads that fork at a time would wait for each other.
_turn = threading.Lock()


@lru_cache(maxsize=1)
def _register() -> None:
    os.register_at_fork(
        before=_before, after_in_parent=lambda: _after(in_child=False), after_in_child=lambda: _after(in_child=True)
    )


def _before() -> None:
    _turn.acquire()
    _still[:] = list(_told)
    for one in _still:
        one.before_fork()


def _after(*, in_child: bool) -> None:
    for one in reversed(_still):
        one.after_fork(in_child=in_child)
    _still.clear()
    _turn.release()
