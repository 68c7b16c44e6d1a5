"""Subscribe the callback to documents as a RunEngine emits them: their submission is in the outbox."""

import subprocess
import sys
import uuid

import bluesky_prefect
from bluesky_prefect import PrefectCallback

assert bluesky_prefect.__file__.startswith(sys.prefix), bluesky_prefect.__file__

callback = PrefectCallback("my-workflow/local")
uid = str(uuid.uuid4())
callback("start", {"uid": uid, "time": 1.0, "scan_id": 1, "plan_name": "count"})
callback("stop", {"uid": str(uuid.uuid4()), "time": 2.0, "run_start": uid, "exit_status": "success"})
[entry] = callback.outbox.entries(run_uid=uid)
assert entry.state == "waiting", entry
callback.close()

status = subprocess.run(["bluesky-prefect", "status"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
assert status.returncode == 1
assert 'pip install "bluesky-prefect[cli]"' in status.stderr, status.stderr
assert "Traceback" not in status.stderr, status.stderr
