"""A forked process: from waiting for its job until it exits as ``python -m prefect.engine`` would."""

import atexit
import contextlib
import ctypes
import importlib
import inspect
import json
import logging
import multiprocessing.util
import os
import random
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path
from typing import Any, BinaryIO

from bluesky_prefect.worker._prefect_internals import announce_cancellation
from bluesky_prefect.worker.forkserver._protocol import ANSWER, Job, message

# Files in the working directory that Prefect reads settings from.
_SETTINGS_FILES = (".env", "prefect.toml", "pyproject.toml")
# What the fork server was started with; modules that it imports may change that, for themselves.
_STARTED_WITH = dict(os.environ)


def main(channel: socket.socket) -> int:
    """Wait for a job, do it, and return the exit code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _be_another_process()
    channel.set_inheritable(False)
    lines = channel.makefile("rb")
    received = _next_line(lines)
    if not received:
        # The worker is gone, or has no use for it any more.
        return 0
    job = Job.model_validate_json(received)
    threading.Thread(target=_await_cancellation, args=(lines,), name="cancellation", daemon=True).start()
    code = _exit_code(job)
    _finish()
    with contextlib.suppress(OSError):  # the worker is gone
        channel.sendall(message(code=code))
    return code


def _next_line(lines: BinaryIO) -> bytes:
    """Return the next line, or nothing if the worker is gone."""
    with contextlib.suppress(ConnectionError):
        line = lines.readline()
        return line if line.endswith(b"\n") else b""
    return b""


def _await_cancellation(lines: BinaryIO) -> None:
    """End the flow run as a cancelled one, and all that it has started, when the worker says so."""
    if _next_line(lines):
        announce_cancellation()
        os.killpg(0, signal.SIGTERM)


def _be_another_process() -> None:
    """Part with what the fork server has that must not be the same in two processes."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    # What the fork server registered is not for its children to undo, as a temporary directory. What is registered
    # again here are the parts of an interpreter's exit that a flow run may count on.
    atexit._clear()
    weakref.finalize._registry.clear()  # pyright: ignore[reportAttributeAccessIssue]
    weakref.finalize._registered_with_atexit = False  # pyright: ignore[reportAttributeAccessIssue]
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)  # pyright: ignore[reportAttributeAccessIssue]


def _exit_code(job: Job) -> int:
    """Do the job; return what an interpreter would exit with."""
    try:
        _settle(job)
        if job.hooks is not None:
            _run_hooks(job)
        elif job.check is not None:
            _answer(job.check)
        else:
            logging.getLogger("prefect.flow_runs").addFilter(_Tracebacks())
            # The engine as it is, in a module of its own called __main__; the one that was imported is another.
            sys.modules.pop("prefect.engine", None)
            sys.argv = ["prefect.engine", *job.arguments]
            runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)  # noqa: T201  # as the interpreter does
        return 1
    except BaseException:  # noqa: BLE001  # the outermost frame of a process
        traceback.print_exc()
        return 1
    return 0


class _Tracebacks(logging.Filter):
    """Leaves each error of a flow run one traceback: the engine logs it at the end of the flow, and at its own."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: list[tuple[Any, BaseException]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Take away a traceback that the flow run's log has; all records pass."""
        if record.exc_info and (error := record.exc_info[1]):
            of_run = getattr(record, "flow_run_id", None)
            if any(run == of_run and one is error for run, one in self._logged):
                record.exc_info = None
            else:
                self._logged.append((of_run, error))
        return True


def _finish() -> None:
    """Do what an interpreter does at its end: wait for threads, call exit handlers, write what is buffered."""
    # Prefect's log and event threads send what they still hold upon this.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    write_out()


def write_out() -> None:
    """Write what Python and C hold back of the output."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    ctypes.CDLL(None).fflush(None)


def _settle(job: Job) -> None:
    """Take the job's priority, output, directory, environment, module path and Prefect settings."""
    # What 'ps -o comm' and 'top' show, to tell it from the fork server.
    Path("/proc/self/comm").write_text("flow-run")
    if job.nice:
        niceness = os.nice(job.nice)
        # Where Linux shares the processor between sessions first ("autogroup"), a new one has the share of any other.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(niceness))
    if not job.output:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    before, wanted = dict(os.environ), job.environment
    # Variables that imported modules have set stay, unless the job has others than the fork server was started with.
    set_by_modules = {
        name: value
        for name, value in before.items()
        if value != _STARTED_WITH.get(name) and wanted.get(name) == _STARTED_WITH.get(name)
    }
    os.environ.clear()
    os.environ.update({**wanted, **set_by_modules})
    time.tzset()
    os.chdir(job.directory)
    _set_path(before.get("PYTHONPATH", ""), wanted)
    if _settings(before) != _settings(wanted) or any(map(os.path.exists, _SETTINGS_FILES)):
        # Prefect has read those of the fork server when it was imported.
        import prefect.context
        from prefect.logging.configuration import setup_logging

        prefect.context.refresh_global_settings_context()
        setup_logging(incremental=False)


def _set_path(before: str, environment: dict[str, str]) -> None:
    """Set the path of modules as ``python -m`` does."""
    inherited = set(before.split(os.pathsep))
    own = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if not environment.get("PYTHONSAFEPATH"):
        own.insert(0, os.getcwd())  # noqa: PTH109  # a string is what belongs there
    sys.path[:] = [*own, *(entry for entry in sys.path if entry not in inherited)]
    importlib.invalidate_caches()


def _settings(environment: dict[str, str]) -> dict[str, str]:
    """Return Prefect's settings; names with two underscores are about the flow run."""
    names = [name for name in environment if name.startswith("PREFECT_") and not name.startswith("PREFECT__")]
    return {name: environment[name] for name in names}


def _answer(check: str) -> None:
    """Leave in the working directory what a check returns, or why it cannot be called."""
    module, _, name = check.partition(":")
    try:
        answer = getattr(importlib.import_module(module), name)()
    except Exception as error:  # noqa: BLE001  # a facility's own module may raise anything
        answer = f"The work pool's variable 'check' names {check}, which cannot be called: {error!r}."
    Path(ANSWER).write_text(str(answer or ""))


def _run_hooks(job: Job) -> None:
    """Run the hooks of a flow for the state in which its flow run is."""
    import anyio
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import load_flow_from_flow_run
    from prefect.logging.loggers import flow_run_logger

    flow_run = FlowRun.model_validate_json(job.flow_run or "")
    state: State[Any] = State.model_validate(json.loads(job.hooks or ""))

    flow = anyio.run(load_flow_from_flow_run, flow_run)
    log = flow_run_logger(flow_run, flow)
    for hook in flow.on_crashed_hooks if state.is_crashed() else flow.on_cancellation_hooks:
        name = getattr(hook, "__name__", repr(hook))
        log.info("Running hook %r in response to entering state %r", name, state.name)
        try:
            if inspect.iscoroutinefunction(hook):
                anyio.run(hook, flow, flow_run, state)
            else:
                hook(flow, flow_run, state)
        except Exception:
            log.exception("Hook %r failed", name)
