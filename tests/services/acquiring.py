"""A beamline's session as a process: runs of documents as a RunEngine makes them, through `PrefectCallback`.

``python -m tests.services.acquiring WORKFLOW NUMBER EVERY_S`` prints, for each run, its uid and the time of its stop.
Where the environment names a Tiled server, `TiledWriter` writes the runs there; with ``recorded`` at the end,
`RunRecorder` leaves that to a courier. With ``begins`` at the end, it takes one run more at first, and waits for a line
on stdin.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from event_model import compose_run

from bluesky_prefect import PrefectCallback, Settings
from bluesky_prefect.journal import RunRecorder
from bluesky_prefect.tiled_api import Catalog

Callbacks = list[Callable[[str, Any], Any]]
_SEND_S = 150.0


def main(workflow: str, number: str, every_s: str, *how: str) -> None:
    """Take runs, so many, one every so many seconds."""
    callback = PrefectCallback(workflow)
    callbacks: Callbacks = [callback]
    settings = Settings()
    if "recorded" in how:
        callbacks.insert(0, RunRecorder(settings.journals_path))
    elif settings.tiled_uri:
        from bluesky_tiled_plugins import TiledWriter

        callbacks.append(TiledWriter(Catalog.connect(settings).raw_for_writing()))
    if "begins" in how:
        take_run(callbacks, 0)
        sys.stdin.readline()
    began = time.monotonic()
    for one in range(int(number)):
        time.sleep(max(0.0, began + one * float(every_s) - time.monotonic()))
        take_run(callbacks, one + 1)
    # Closed while Prefect is out of reach, it would leave what waits to the next session.
    deadline = time.monotonic() + _SEND_S
    while callback.outbox.has_waiting() and time.monotonic() < deadline:
        time.sleep(0.2)
    callback.close(600.0)


def take_run(callbacks: Callbacks, scan_id: int) -> None:
    """Take a run and print it."""
    run = compose_run(metadata={"scan_id": scan_id, "plan_name": "count"})
    stop = run.compose_stop()
    for name, doc in (("start", run.start_doc), ("stop", stop)):
        for callback in callbacks:
            callback(name, doc)
    print(run.start_doc["uid"], stop["time"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
