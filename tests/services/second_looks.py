"""Second looks at servers that have a second or two to answer, and on a busy machine may need longer."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# What a session's greeting, `status` and `check` say of a server that did not answer in time.
_LATE = ("no answer", "timed out", "answers 503", "shows no container", "Scan ids begin at 1: Tiled, which knows")


def look_again(look: Callable[[], T], said: Callable[[T], str] = str, *, times: int = 3) -> T:
    """Return what a look gives; look again, so many times at most in all, while it says that an answer was late."""
    for _ in range(times - 1):
        seen = look()
        if not any(words in said(seen) for words in _LATE):
            return seen
        time.sleep(1)
    return look()
