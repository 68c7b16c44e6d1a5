"""A beamline's session as a process: runs of documents as a RunEngine makes them, through `PrefectCallback`.

``python -m tests.services.acquiring WORKFLOW NUMBER EVERY_S`` prints, for each run, its uid and the time of its stop.
"""

import sys
import time

from event_model import compose_run

from bluesky_prefect import PrefectCallback


def main(workflow: str, number: str, every_s: str) -> None:
    """Take runs, so many, one every so many seconds."""
    callback = PrefectCallback(workflow)
    began = time.monotonic()
    for one in range(int(number)):
        time.sleep(max(0.0, began + one * float(every_s) - time.monotonic()))
        run = compose_run(metadata={"scan_id": one + 1, "plan_name": "count"})
        callback("start", run.start_doc)
        stop = run.compose_stop()
        callback("stop", stop)
        print(run.start_doc["uid"], stop["time"], flush=True)
    callback.close(600.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
