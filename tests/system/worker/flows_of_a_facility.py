"""Flows that tell how they are executed, and end in every way there is."""

import ctypes
import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

from prefect import flow, suspend_flow_run
from prefect.settings import get_current_settings


def _descriptors():
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except OSError:
            continue
    return found


def _autogroup() -> str:
    path = Path("/proc/self/autogroup")
    return path.read_text().strip() if path.exists() else ""


@flow
def report(file: str):
    """Write what can be seen from inside."""
    import numpy

    with tempfile.NamedTemporaryFile() as named:
        temporary = named.name
    seen = {
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "nice": os.nice(0),
        "autogroup": _autogroup(),
        "name": Path("/proc/self/comm").read_text().strip(),
        "path": sys.path,
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "descriptors": _descriptors(),
        "log_level": get_current_settings().logging.level,
        "random": [random.random(), float(numpy.random.random()), str(uuid.uuid4()), temporary],
        "facility": getattr(sys.modules.get("facility_code"), "VALUE", None),
        "zone": time.tzname[0],
    }
    Path(file).write_text(json.dumps(seen))


@flow(log_prints=True)
def lines(count: int):
    for number in range(count):
        print(f"line {number}")


@flow
def speaks_c():
    ctypes.CDLL(None).puts(b"said in C")


@flow
def suspends(file: str):
    """Write how far it is; suspend the first time."""
    if not Path(file).exists():
        Path(file).write_text("before")
        suspend_flow_run(timeout=60)
    Path(file).write_text("after")


def _wait_while_it_is_there(file: str):
    Path(file).write_text(str(os.getpid()))
    while Path(file).exists():
        time.sleep(0.05)


def _wait(flow, flow_run, state):
    _wait_while_it_is_there(flow_run.parameters["file"])


@flow(on_failure=[_wait])
def fails_slowly(file: str):
    """Fail, then write the process id and wait until the file is gone."""
    raise ValueError("the sample fell off")


@flow
def fails():
    raise ValueError("the sample fell off")


@flow(timeout_seconds=1)
def hangs():
    time.sleep(60)


def _noted(flow, flow_run, state):
    Path(flow_run.parameters["file"]).with_suffix(".hook").write_text(f"{state.type.value} {os.getpid()}")


@flow(on_crashed=[_noted], on_cancellation=[_noted])
def waits(file: str):
    """Write the process id, then wait until the file is gone."""
    _wait_while_it_is_there(file)


def _noted_slowly(flow, flow_run, state):
    _noted(flow, flow_run, state)
    time.sleep(600)


@flow(on_cancellation=[_noted_slowly])
def cancels_slowly(file: str):
    _wait_while_it_is_there(file)


@flow(on_crashed=[_noted])
def dies(file: str, how: str):
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
