"""Calls of a flow at a prompt: a mistake is a line, and an error leads to the line of people's own that made it."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from bluesky_prefect.core import BlueskyPrefectError, FlowInputError, called_at_prompt, one_line
from bluesky_prefect.flows.common._run_access import require_run
from bluesky_prefect.tiled_api import checked_ref

R = TypeVar("R")
# Packages that call people's functions, and modules that those use for it.
_MACHINERY = frozenset({"anyio", "asyncio", "concurrent", "contextlib", "prefect"})
_OURS = ("bluesky_prefect.flows.common.", called_at_prompt.__module__)


def is_prompt() -> bool:
    """Tell whether somebody types: Python has a prompt to show, as in IPython and Jupyter."""
    return hasattr(sys, "ps1")


def bound_arguments(name: str, fn: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, defaults included; `name` is that of the flow.

    Raises
    ------
    FlowInputError
        If one is missing, unknown, or of a wrong type, or if ``ref`` cannot name a run.
    """
    signature = _signature(fn)
    try:
        bound = signature.bind(*arguments, **options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise FlowInputError(f"{name}: {error}. It takes: {takes}.") from None
    bound.apply_defaults()
    for key, value in bound.arguments.items():
        _check_type(key, value, signature.parameters[key])
    if "ref" in bound.arguments:
        checked_ref(bound.arguments["ref"])
    return bound.arguments


def check_call(name: str, fn: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Refuse a call that a flow run could only fail with: a wrong argument, or a run that Tiled does not have.

    Raises
    ------
    FlowInputError, RunNotFound
        If it is such a call.
    TiledUnavailable, ConfigurationError
        If Tiled cannot be asked for the run.
    """
    given = bound_arguments(name, fn, *arguments, **options)
    if "ref" in given:
        require_run(given["ref"])


def shown_briefly(call: Callable[[], R]) -> R:
    """Call, with errors shown once: the log only names them, and the one raised has no frames but people's own."""
    try:
        with _no_tracebacks_in_log():
            return called_at_prompt(call)
    except BlueskyPrefectError:
        raise
    except Exception as error:
        error.__traceback__ = _own_frames(error.__traceback__) or error.__traceback__
        raise


@contextmanager
def _no_tracebacks_in_log() -> Iterator[None]:
    consoles = [one for one in logging.getLogger().handlers if not isinstance(one, logging.FileHandler)]
    filters = [(console, partial(_without_traceback, console)) for console in consoles]
    for console, brief in filters:
        console.addFilter(brief)
    try:
        yield
    finally:
        for console, brief in filters:
            console.removeFilter(brief)


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn, eval_str=True)
    except NameError:  # imported for type checkers alone
        return inspect.signature(fn)


def _check_type(name: str, value: Any, parameter: inspect.Parameter) -> None:
    import pydantic

    annotation = parameter.annotation
    if annotation is parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return
    if isinstance(value, Iterator):
        return  # looking at it would use it up
    try:
        # As Prefect does, which writes an error into the log and makes a flow run first.
        pydantic.TypeAdapter(annotation, config={"arbitrary_types_allowed": True}).validate_python(value)
    except (pydantic.PydanticUserError, NameError):  # left to Prefect, which knows more kinds
        return
    except pydantic.ValidationError as error:
        wrong = dict.fromkeys(one["msg"] for one in error.errors())
        raise FlowInputError(f"{name}={one_line(repr(value), 60)}: {'; '.join(wrong)}.") from None


def _without_traceback(console: logging.Handler, record: logging.LogRecord) -> bool:
    """Have a handler handle a record of Prefect without its traceback, which other handlers are to see."""
    if not record.name.startswith("prefect.") or not (record.exc_info or record.exc_text):
        return True
    brief = copy(record)
    brief.exc_info = brief.exc_text = None
    console.handle(brief)
    return False


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of what calls a flow and its tasks."""
    if trace is None:
        return None
    rest, module = _own_frames(trace.tb_next), str(trace.tb_frame.f_globals.get("__name__"))
    if module.partition(".")[0] in _MACHINERY or module.startswith(_OURS):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
