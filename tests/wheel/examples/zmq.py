"""Listen to a publisher of documents: the workflow of its run is in the outbox."""

import os
import pickle
import signal
import subprocess
import time
from pathlib import Path

import zmq

from bluesky_prefect import Outbox, get_settings

Path("workflows.py").write_text('workflows = ["my-workflow/local"]\n')
publisher = zmq.Context.instance().socket(zmq.PUB)
port = publisher.bind_to_random_port("tcp://127.0.0.1")
listener = subprocess.Popen(
    [
        "bluesky-prefect",
        "listen",
        "zmq",
        f"127.0.0.1:{port}",
        "--workflows",
        f"{Path('workflows.py').absolute()}:workflows",
    ],
    stdin=subprocess.DEVNULL,
    env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"},
)
RUN = (
    ("start", {"uid": "a-run", "time": 1.0, "scan_id": 1, "plan_name": "count"}),
    ("stop", {"uid": "its-stop", "time": 2.0, "run_start": "a-run", "exit_status": "success"}),
)
outbox = Outbox(get_settings().outbox_path)
deadline = time.monotonic() + 60
# 0MQ keeps nothing for a listener that does not listen yet.
while not outbox.entries(run_uid="a-run") and listener.poll() is None and time.monotonic() < deadline:
    for name, document in RUN:
        publisher.send(b" ".join((b"", name.encode(), pickle.dumps(document))))
    time.sleep(0.1)
listener.send_signal(signal.SIGTERM)
assert listener.wait(60) == 0
assert [entry.deployment for entry in outbox.entries(run_uid="a-run")] == ["my-workflow/local"]
