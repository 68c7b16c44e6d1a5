"""A session of the profile, driven by lines on its standard input; see test_recording.py."""

import contextlib
import io
import json
import os
import sys
import time
from typing import Any

from bluesky.plans import scan

from bluesky_prefect.session import start_session
from bluesky_prefect.sim import make_devices

HEAVY = ("prefect", "tiled.client", "bluesky_tiled_plugins")
PASSED_ON = ("PREFECT_", "BLUESKY_PREFECT_", "TILED_")


def main() -> None:
    session = start_session(tell=lambda line: print(line, flush=True))
    devices = make_devices(os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] + "/images")
    uid = ""

    def last() -> dict[str, Any]:
        began = time.monotonic()
        try:
            run = session.raw[-1]
        except Exception as error:  # noqa: BLE001 - said by the test
            return {"scan_id": None, "error": str(error)}
        waited_s = time.monotonic() - began
        stop = run.metadata.get("stop") or {}
        rows = len(run["primary"].base["internal"].read())
        return {
            "scan_id": run.start["scan_id"],
            "exit_status": stop.get("exit_status"),
            "rows": rows,
            "waited_s": waited_s,
        }

    answer({"heavy": heavy()})
    for line in sys.stdin:
        match line.split():
            case ["scan"]:
                with contextlib.redirect_stdout(io.StringIO()):
                    (uid,) = session.run_engine(scan([devices.det], devices.motor, -1, 1, 11))
                answer({"uid": uid, "points": 11})
            case ["scan", "id"]:
                answer({"scan_id": session.run_engine.md["scan_id"]})
            case ["heavy"]:
                answer({"heavy": heavy()})
            case ["environment"]:
                answer({"environment": {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}})
            case ["last"]:
                answer(last())
            case ["last", "within", seconds]:
                from bluesky_prefect.session import wait_until_delivered

                wait_until_delivered(tell=lambda line: print(line, flush=True), timeout_s=float(seconds))
                answer({"scan_id": None})


def heavy() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def answer(what: dict[str, Any]) -> None:
    print("ANSWER", json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
