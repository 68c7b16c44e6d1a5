"""'bluesky-prefect listen zmq' on Bluesky's own proxy."""

import pickle
from pathlib import Path

import pytest
from bluesky import RunEngine
from bluesky.callbacks.zmq import Publisher
from bluesky.plans import count
from ophyd.sim import det

from tests.services.brokers import ZMQProxy
from tests.services.listeners import Listener

# bluesky's RunEngine leaves its event loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Harm:
    """What a stranger publishes: reading it with pickle alone would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def proxy():
    """Addresses to publish to and to listen at."""
    proxy = ZMQProxy()
    yield proxy.incoming, proxy.outgoing
    proxy.close()


def test_runs_that_a_proxy_passes_on_are_in_the_outbox(proxy, tmp_path):
    incoming, outgoing = proxy
    listener = Listener(tmp_path, "zmq", outgoing)
    publisher = Publisher(incoming)
    run_engine = RunEngine(context_managers=[])
    run_engine.subscribe(publisher)
    uids: list[str] = []

    def arrived() -> bool:
        # 0MQ drops what is published before its sockets have found each other.
        uids.extend(run_engine(count([det], 2)))
        return bool(listener.entries())

    try:
        listener.wait_until(arrived)
        assert set(listener.uids()) <= set(uids)
        assert listener.entries()[-1].submission.stop["num_events"] == {"primary": 2}
    finally:
        publisher.close()
        assert listener.close() == 0


def test_a_message_that_holds_code_is_set_aside_and_not_run(proxy, tmp_path):
    incoming, outgoing = proxy
    listener = Listener(tmp_path / "state", "zmq", outgoing)
    publisher = Publisher(incoming, serializer=lambda _: pickle.dumps(Harm(tmp_path / "harm")))
    refused = tmp_path / "state" / "refused-messages"

    def set_aside() -> bool:
        publisher("start", {"uid": "a-run", "time": 0.0})
        return refused.is_dir() and any(refused.glob("*.json"))

    try:
        listener.wait_until(set_aside)
        assert "not data" in next(refused.glob("*.json")).read_text()
        assert not (tmp_path / "harm").exists()
    finally:
        publisher.close()
        listener.close()
