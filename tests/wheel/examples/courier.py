"""Run the courier where Tiled is away: the run waits in its journal, and the courier ends when it is told to."""

import os
import signal
import subprocess
import time
from pathlib import Path

from bluesky_prefect import get_settings
from bluesky_prefect.journal import JournalDirectory, RunRecorder

recorder = RunRecorder()
recorder("start", {"uid": "a-run", "time": 1.0, "scan_id": 1})
recorder("stop", {"uid": "its-stop", "time": 2.0, "run_start": "a-run", "exit_status": "success"})
recorder.close()

log = Path("courier.log")
nowhere = {"BLUESKY_PREFECT_TILED_URI": "http://127.0.0.1:9", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
with log.open("w") as file:
    courier = subprocess.Popen(
        ["bluesky-prefect", "courier"],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env={**os.environ, **nowhere, "TILED_API_KEY": "secret"},
    )
deadline = time.monotonic() + 60
while "127.0.0.1:9" not in log.read_text() and courier.poll() is None and time.monotonic() < deadline:
    time.sleep(0.05)
courier.send_signal(signal.SIGTERM)
assert courier.wait(60) == 0, log.read_text()
assert [one.run_uid for one in JournalDirectory(get_settings().journals_path).waiting()] == ["a-run"]
print(log.read_text())
