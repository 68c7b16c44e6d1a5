"""Listen to a broker that is not there: the listener says so, goes on, and ends when it is told to."""

import os
import signal
import subprocess
import time
from pathlib import Path

Path("workflows.py").write_text('workflows = ["my-workflow/local"]\n')
workflows = f"{Path('workflows.py').absolute()}:workflows"
log = Path("listener.log")
with log.open("w") as file:
    listener = subprocess.Popen(
        ["bluesky-prefect", "listen", "kafka", "documents", "--servers", "127.0.0.1:9", "--workflows", workflows],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"},
    )
deadline = time.monotonic() + 60
while "is read when it is back" not in log.read_text() and listener.poll() is None and time.monotonic() < deadline:
    time.sleep(0.05)
listener.send_signal(signal.SIGTERM)
assert listener.wait(60) == 0, log.read_text()
assert "127.0.0.1:9" in log.read_text(), log.read_text()
assert "is read when it is back" in log.read_text(), log.read_text()
assert "Traceback" not in log.read_text(), log.read_text()
