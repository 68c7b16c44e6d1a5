"""Serve the metrics of a process, and fetch them."""

import socket
from urllib.request import urlopen

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.metrics import Signals, serve_metrics

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
settings = Settings(metrics_port=port)
with serve_metrics(settings, Signals(), [Outbox(settings.outbox_path)], process="example") as served:
    assert served == port
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = answer.read().decode()
assert "bluesky_prefect_" in found, found
