"""The callback on documents that come over a network, in a process without a RunEngine."""

import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from bluesky import RunEngine
from bluesky.callbacks.zmq import Publisher
from bluesky.plans import count
from ophyd.sim import det

from bluesky_prefect import Outbox
from tests.services.prefect_process import wait_until

DISPATCHER = Path(__file__).with_name("dispatcher.py")
PROXY = Path(sysconfig.get_path("scripts")) / "bluesky-0MQ-proxy"

# bluesky's RunEngine leaves its event loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_documents_of_a_0mq_dispatcher_put_their_runs_in_the_outbox(tmp_path):
    incoming, outgoing = (f"127.0.0.1:{port}" for port in _free_ports(2))
    environment = {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path)}
    proxy = subprocess.Popen(
        [str(PROXY), "--in-address", incoming, "--out-address", outgoing], stdout=subprocess.DEVNULL
    )
    dispatcher = subprocess.Popen(
        [sys.executable, str(DISPATCHER), outgoing], env=environment, stdout=subprocess.PIPE, text=True
    )
    publisher = Publisher(incoming)
    outbox = Outbox(tmp_path / "outbox.sqlite")
    try:
        assert dispatcher.stdout.readline().strip() == "ready"
        run_engine = RunEngine(context_managers=[])
        run_engine.subscribe(publisher)
        uids: list[str] = []

        def arrived() -> bool:
            # 0MQ drops what is published before its sockets have found each other.
            uids.extend(run_engine(count([det], 2)))
            return bool(outbox.entries())

        wait_until(arrived)
        assert {entry.run_uid for entry in outbox.entries()} <= set(uids)
        assert outbox.entries()[0].submission.stop["num_events"] == {"primary": 2}
    finally:
        outbox.close()
        publisher.close()
        for process in (dispatcher, proxy):
            process.kill()
            process.wait()
        dispatcher.stdout.close()
