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

from prefect import flow
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
    }
    Path(file).write_text(json.dumps(seen))


@flow(log_prints=True)
def lines(count: int):
    for number in range(count):
        print(f"line {number}")


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
    Path(file).write_text(str(os.getpid()))
    while Path(file).exists():
        time.sleep(0.05)


@flow(on_crashed=[_noted])
def dies(file: str, how: str):
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
