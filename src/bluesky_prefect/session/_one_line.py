"""Calls at the prompt: what goes wrong with one is a line."""

import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from bluesky_prefect.core import FlowInputError, called_at_prompt

P = ParamSpec("P")
R = TypeVar("R")


def in_one_line(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with arguments that do not fit, its failures and Ctrl-C told in a line each."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            named = [one.name for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
            takes = ", ".join(named) or "no arguments"
            if len(named) < len(signature.parameters):
                takes += f", and options (see {function.__name__}?)"
            raise FlowInputError(f"{function.__name__}: {error}. It takes: {takes}.") from None
        return called_at_prompt(lambda: function(*args, **kwargs))

    return call


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Raise what Ctrl-C does at the end of the block: in the middle of an import it would leave half a package."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are raised in the main thread
        return
    pressed: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
    if pressed:
        raise KeyboardInterrupt
