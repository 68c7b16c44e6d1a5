"""Flows that people call like any function."""

import asyncio
import contextvars
import copy
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext, SyncClientContext, TaskRunContext, get_run_context
from prefect.exceptions import CancelledRun, MissingContextError
from prefect.runtime import flow_run
from prefect.states import Cancelled

from bluesky_prefect.core import Interrupted, one_line
from bluesky_prefect.flows.common._prompt_call import check_call, is_prompt, shown_briefly

P = ParamSpec("P")
R = TypeVar("R")

# Arguments of any flow, which are none of its function.
_OF_PREFECT = frozenset({"return_state", "wait_for"})
# Names of the flow runs that Ctrl-C has ended; None where that is nobody's business, as in a worker.
_INTERRUPTED: ContextVar[list[str] | None] = ContextVar("interrupted", default=None)


class PlainFlow(Flow[P, R]):
    """A flow whose call returns the result wherever it is made, and whose mistakes at a prompt are a line each.

    It is written as a function or as a coroutine function. A flow that is a plain function waits at its end for its
    heartbeat thread, which looks up once a second whether it is still wanted (Prefect 3.8), and so does each flow
    within it; one that is a coroutine does not wait, and its heartbeats are the same. At a prompt and in a script
    nobody wants to write ``await``, though, and the loop that it takes may be there already (Jupyter has one, plain
    IPython does not).

    Within an asynchronous flow or task the call of one that is a coroutine function is to be awaited, as that of any
    asynchronous flow.

    A flow run that such a call makes is named after the flow and its first argument. At a prompt, a wrong argument
    makes none, nor does a ``ref`` of a run that Tiled does not have.
    """

    def __init__(self, fn: Callable[P, R], **options: Any) -> None:
        super().__init__(fn, **options)
        self.fn = _ends_cancelled_by_ctrl_c(fn) if self.isasync else _ends_interrupted_by_ctrl_c(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow; return its result, or its state with ``return_state=True``."""
        if not is_prompt() or FlowRunContext.get() is not None or TaskRunContext.get() is not None:
            return self._call(args, kwargs)
        return shown_briefly(lambda: self._checked_call(args, kwargs))

    def _checked_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not kwargs.get("return_state"):
            given = {name: value for name, value in kwargs.items() if name not in _OF_PREFECT}
            check_call(self.name, self.fn, *args, **given)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = self._named(args, kwargs)
        if self.isasync:
            run = Flow.__call__(named, *args, **kwargs)
            return run if _is_awaited() or not asyncio.iscoroutine(run) else _outcome(run)
        with _ctrl_c_explained():
            return Flow.__call__(named, *args, **kwargs)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "PlainFlow[P, R]":
        """Return this flow with a name for its run that tells people what it is, in place of one that Prefect invents.

        A flow run of a deployment has the name that it was created with, and does not come here.
        """
        if self.flow_run_name is not None:
            return self
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            name = f"{context.flow_run.name}-{self.name}"
        else:
            first = next(iter([*args, *kwargs.values()]), None)
            name = f"{self.name} {one_line(first, 40)}" if isinstance(first, int | str) else self.name
        named = copy.copy(self)
        named.flow_run_name = lambda: name
        return named

    def with_options(self, **options: Any) -> "PlainFlow[P, R]":
        """Return a flow like this one, but for some options: those of `prefect.Flow.with_options`."""
        changed = PlainFlow.__new__(PlainFlow)
        changed.__dict__.update(super().with_options(**options).__dict__)
        return changed


def plain_flow(**options: Any) -> Callable[[Callable[P, R]], PlainFlow[P, R]]:
    """Make a `PlainFlow` of a function or coroutine function, with the options of `prefect.flow`."""
    return lambda fn: PlainFlow(fn, **options)


async def gather_all(*work: Awaitable[Any]) -> list[Any]:
    """Wait until all of it is done, then raise the first error, if any: nothing goes on behind one's back."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _is_awaited() -> bool:
    """Tell whether the caller is the coroutine of a flow or task."""
    try:
        asyncio.get_running_loop()
        context = get_run_context()
    except (MissingContextError, RuntimeError):
        return False
    caller = context.task if isinstance(context, TaskRunContext) else context.flow
    return caller is not None and caller.isasync


def _ends_cancelled_by_ctrl_c(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a coroutine function whose flow run ends as cancelled, not as crashed, if Ctrl-C at its call ends it."""

    @wraps(fn)
    async def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return await fn(*args, **kwargs)
        except asyncio.CancelledError:
            if (interrupted := _INTERRUPTED.get()) is None:
                raise
            # The outermost flow run comes last.
            interrupted.append(flow_run.get_name() or "")
            return Cancelled(message="Interrupted by Ctrl-C")

    return run


def _ends_interrupted_by_ctrl_c(fn: Callable[P, R]) -> Callable[P, Any]:
    """Do the same for a plain function."""

    @wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return fn(*args, **kwargs)
        except KeyboardInterrupt:
            if (interrupted := _INTERRUPTED.get()) is None:
                raise
            interrupted.append(flow_run.get_name() or "")
            return Cancelled(message="Interrupted by Ctrl-C")

    return run


def _outcome(run: Coroutine[Any, Any, R]) -> R:
    if not _has_running_loop():
        return _run(run)
    # This thread's loop cannot run it while it waits for it.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, _run, run).result()


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run(run: Coroutine[Any, Any, R]) -> R:
    # Not asyncio.run, which leaves the thread without the event loop that it had.
    with (
        _ctrl_c_explained(),
        # Prefect's asynchronous engine takes a synchronous client too, which it would leave open.
        SyncClientContext.get_or_create(),
        asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner,
    ):
        return runner.run(run)


@contextmanager
def _ctrl_c_explained() -> Iterator[None]:
    """Say which flow run Ctrl-C has cancelled in the block."""
    interrupted: list[str] = []
    before = _INTERRUPTED.set(interrupted)
    try:
        yield
    except (CancelledRun, KeyboardInterrupt):
        if not interrupted:
            raise
        raise Interrupted(f"flow run {interrupted[-1]!r} is cancelled") from None
    finally:
        _INTERRUPTED.reset(before)
