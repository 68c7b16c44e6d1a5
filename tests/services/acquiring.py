"""A beamline's session as a process: runs of documents as a RunEngine makes them, through `PrefectCallback`.

``python -m tests.services.acquiring WORKFLOW NUMBER EVERY_S`` prints, for each run, its uid and the time of its stop.
Where the environment names a Tiled server, `TiledWriter` writes the runs there.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from event_model import compose_run

from bluesky_prefect import PrefectCallback, Settings
from bluesky_prefect.tiled_api import Catalog

_SEND_S = 150.0


def main(workflow: str, number: str, every_s: str) -> None:
    """Take runs, so many, one every so many seconds."""
    callback = PrefectCallback(workflow)
    callbacks: list[Callable[[str, Any], Any]] = [callback]
    settings = Settings()
    if settings.tiled_uri:
        from bluesky_tiled_plugins import TiledWriter

        callbacks.append(TiledWriter(Catalog.connect(settings).raw_for_writing()))
    began = time.monotonic()
    for one in range(int(number)):
        time.sleep(max(0.0, began + one * float(every_s) - time.monotonic()))
        run = compose_run(metadata={"scan_id": one + 1, "plan_name": "count"})
        stop = run.compose_stop()
        for name, doc in (("start", run.start_doc), ("stop", stop)):
            for one in callbacks:
                one(name, doc)
        print(run.start_doc["uid"], stop["time"], flush=True)
    # Closed while Prefect is out of reach, it would leave what waits to the next session.
    deadline = time.monotonic() + _SEND_S
    while callback.outbox.has_waiting() and time.monotonic() < deadline:
        time.sleep(0.2)
    callback.close(600.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
