"""Commands as processes that are forked from one which has imported what they need.

Each is a process of its own, with an environment, a working directory and output of its own, and an exit code. It is
there at once: an interpreter that imports Prefect's client, Tiled's and the command line works for two seconds before
it does anything.

For commands whose environment names the servers: Prefect reads its settings when the process begins, and not when the
command first needs Prefect. What is tested of imports, of a terminal or of signals needs an interpreter of its own.
"""

import atexit
import contextlib
import gc
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

# What the fork server imports: this, and all that it imports in turn.
_THIS = "tests.services.forked_imports"
_TIMEOUT_S = 150.0


def run_command(*arguments: str, env: Mapping[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``bluesky-prefect``, and return its exit code and what it printed."""
    return run_module("bluesky_prefect", *arguments, env=env, cwd=cwd)


def run_module(
    module: str, *arguments: str, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module as ``python -m`` does."""
    return _run(["-m", module, *arguments], env, cwd)


def run_code(
    code: str, *arguments: str, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program as ``python -c`` does."""
    return _run(["-c", code, *arguments], env, cwd)


@cache
def _fork_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_THIS])
    return context


def _run(command: list[str], env: Mapping[str, str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="forked-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        told = (command, dict(env), str(cwd or Path.cwd()), str(out), str(err))
        process = _fork_server().Process(target=_be, args=told, daemon=True)
        process.start()
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, _TIMEOUT_S, out.read_bytes(), err.read_bytes())
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


def _be(command: list[str], environment: dict[str, str], directory: str, out: str, err: str) -> None:
    """Be what the command line says, in the forked process; exit as an interpreter does."""
    for descriptor, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    inherited = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [directory, *filter(None, inherited)]
    random.seed()
    _read_settings()
    gc.enable()
    try:
        kind, what, *arguments = command
        sys.argv = [what if kind == "-m" else "-c", *arguments]
        if kind == "-m":
            if "." in what:
                sys.modules.pop(what, None)  # the one that was imported is another than the one called __main__
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)
    finally:
        # multiprocessing ends without them; Prefect's logs and the outbox's forwarder count on both.
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def _read_settings() -> None:
    """Have Prefect and this package read the settings of this environment: they have read the fork server's."""
    import prefect.context
    from prefect.logging.configuration import setup_logging

    from bluesky_prefect.core import get_settings

    get_settings.cache_clear()
    prefect.context.refresh_global_settings_context()
    setup_logging(incremental=False)
