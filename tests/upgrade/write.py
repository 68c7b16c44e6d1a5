"""Take a few runs with whichever version runs this, and be killed: write.py STATE PREFIX [WAITS].

One run is whole, the next of a callback that refuses it, and the last one is cut off in the middle. With WAITS, a
second set is taken once a line comes in, with the outbox still open.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

state, prefix, *waits = sys.argv[1:]
os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = state
os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"

from bluesky_prefect import PrefectCallback, Workflow  # noqa: E402

try:
    from bluesky_prefect.journal import RunRecorder
except ImportError:  # before there were journals
    recorder = None
else:
    recorder = RunRecorder(Path(state) / "journals")


def is_wanted(run):
    return not run.start.get("unwanted")


callback = PrefectCallback([Workflow("my-workflow/local", when=is_wanted), "other/local"])


def emit(name, document):
    if recorder:
        recorder(name, document)
    callback(name, document)


def take(uid, *, stopped=True, **metadata):
    emit(
        "start", {"uid": uid, "time": 1.0, "scan_id": 7, "plan_name": "count", "sample": {"name": "Fe₂O₃"}, **metadata}
    )
    keys = {"x": {"source": "s", "dtype": "array", "shape": [3]}}
    emit("descriptor", {"uid": f"{uid}-d", "time": 1.5, "run_start": uid, "name": "primary", "data_keys": keys})
    data = {"x": np.arange(3.0)}
    event = {"uid": f"{uid}-e", "time": 1.6, "descriptor": f"{uid}-d", "seq_num": 1, "data": data}
    emit("event", {**event, "timestamps": {"x": 1.6}, "filled": {}})
    if stopped:
        emit(
            "stop",
            {"uid": f"{uid}-s", "time": 2.0, "run_start": uid, "exit_status": "success", "num_events": {"primary": 1}},
        )


def take_all(prefix):
    take(f"{prefix}-whole")
    take(f"{prefix}-refused", unwanted=True)
    take(f"{prefix}-cut", stopped=False)


take_all(prefix)
if waits:
    print("taken", flush=True)
    sys.stdin.readline()
    take_all(f"{prefix}-late")
os.kill(os.getpid(), signal.SIGKILL)
