"""Documents from 0MQ, whatever else is published there."""

import json
import pickle
import socket
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
import zmq

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.metrics import Signals
from bluesky_prefect.sources import RefusedMessages, ZMQSource, _zmq_source
from tests.services.prefect_process import wait_until


class Taken:
    """A callback that keeps the uids of runs that start."""

    def __init__(self) -> None:
        self.uids: list[str] = []

    def start(self, doc: dict[str, str]) -> None:
        self.uids.append(doc["uid"])


class Line:
    """A line to a port of this machine, which a firewall may forget: neither end hears of that, and new ones pass."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._forgotten: set[socket.socket] = set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def forget(self) -> None:
        """Have what is sent by the connections that are open now get nowhere."""
        self._forgotten.update(self._ends)

    def close(self) -> None:
        for one in (self._listener, *self._ends):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for one in (self._listener, *self._ends):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [here, there]
                for ends in ((here, there), (there, here)):
                    self._start(self._pass, *ends)

    def _start(self, target, *ends: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=ends, daemon=True))
        self._threads[-1].start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if source not in self._forgotten:
                    target.sendall(content)


class Stage:
    """A publisher, and a source that listens to it in a thread, by a line if it is to be one that can be forgotten."""

    def __init__(self, directory, *, by_line: bool = False, **options) -> None:
        self.callback = Taken()
        self.finish = threading.Event()
        self.refused = directory / "refused-messages"
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        port = self._publisher.bind_to_random_port("tcp://127.0.0.1")
        self.line = Line(port) if by_line else None
        port = self.line.port if self.line else port
        self.source = ZMQSource(self.callback, f"127.0.0.1:{port}", RefusedMessages(self.refused), **options)
        self.thread = threading.Thread(target=self.source.run, args=[self.finish])
        self.thread.start()

    def publish(self, *messages: bytes) -> None:
        for message in messages:
            self._publisher.send(message)

    def connect(self, prefix: bytes = b"") -> None:
        """Publish until the source has taken something, and forget that."""

        def taken() -> bool:
            self.publish(start("first", prefix))
            return bool(self.callback.uids)

        wait_until(taken, 20)

    def wait_for(self, uid: str) -> list[str]:
        wait_until(lambda: uid in self.callback.uids, 20)
        return [one for one in self.callback.uids if one != "first"]

    def close(self) -> None:
        self.finish.set()
        self.thread.join(20)
        self._context.destroy(0)
        if self.line:
            self.line.close()


def start(uid: str, prefix: bytes = b"") -> bytes:
    return prefix + b" start " + pickle.dumps({"uid": uid})


@pytest.fixture
def stage(tmp_path):
    stages = []

    def make(**options):
        stages.append(Stage(tmp_path, **options))
        return stages[-1]

    yield make
    for one in stages:
        one.close()


def test_messages_of_unknown_names_lose_no_other(stage, capfd):
    one = stage()
    one.connect()
    expected = []
    for number in range(40):
        one.publish(b" hello " + pickle.dumps({}), start(f"run {number}"))
        expected.append(f"run {number}")
    assert one.wait_for("run 39") == expected
    assert capfd.readouterr().out == ""


def test_documents_that_are_not_used_are_not_read(stage):
    one = stage()
    one.connect()
    one.publish(b" event not a pickle", b" descriptor " + b"x" * 100, start("a"))
    one.wait_for("a")
    assert not one.refused.exists()


def test_a_message_without_its_parts_is_set_aside_as_it_came(stage):
    one = stage()
    one.connect()
    one.publish(b"nothing", start("a"))
    one.wait_for("a")
    assert [path.read_bytes() for path in one.refused.glob("*.message")] == [b"nothing"]


def test_a_document_that_cannot_be_used_is_set_aside_as_it_came(stage):
    nested = [1]
    for _ in range(12):
        nested = [nested] * 10
    one = stage()
    one.connect()
    messages = [b" start " + pickle.dumps(what) for what in ({"a": nested}, {"a": 1}, 5)]
    one.publish(*messages, start("a"))
    one.wait_for("a")
    assert {path.read_bytes() for path in one.refused.glob("*.message")} == set(messages)
    reasons = " ".join(json.loads(path.read_text())["reason"] for path in one.refused.glob("*.json"))
    assert all(part in reasons for part in ("far larger", "no text in 'uid'", "int in the place"))


def test_only_documents_of_its_prefix_are_taken(stage):
    one = stage(prefix="tst")
    one.connect(b"tst")
    one.publish(start("a", b"tst2"), start("b", b""), start("c", b"other"), start("d", b"tst"))
    assert one.wait_for("d") == ["d"]


def test_without_a_prefix_documents_of_all_are_taken(stage):
    one = stage()
    one.connect()
    one.publish(start("a", b"tst"), start("b"))
    assert one.wait_for("b") == ["a", "b"]


def test_what_one_document_raises_holds_up_no_other(stage):
    one = stage()
    one.connect()
    one.callback.stop = SimpleNamespace  # takes no positional argument
    one.publish(b" stop " + pickle.dumps({"run_start": "a"}), start("b"))
    assert one.wait_for("b") == ["b"]


def test_a_message_that_is_larger_than_any_document_is_not_read_and_those_after_it_are(stage, monkeypatch):
    monkeypatch.setattr(_zmq_source, "_MAX_MESSAGE", 100_000)
    one = stage()
    one.connect()
    one.publish(b" start " + b"x" * 200_000)
    wait_until(lambda: one.publish(start("after it")) or "after it" in one.callback.uids, 20)
    assert not one.refused.exists()
    wait_until(lambda: one.publish(b" start " + b"x" * 50_000) or one.refused.exists(), 20)


def test_a_connection_that_a_firewall_has_forgotten_is_made_anew(stage, monkeypatch, caplog):
    monkeypatch.setattr(_zmq_source, "_SIGN_OF_LIFE_MS", 300)
    one = stage(by_line=True)
    one.connect()
    one.line.forget()
    wait_until(lambda: one.publish(start("after it")) or "after it" in one.callback.uids, 20)
    assert "was closed, and is made anew" in caplog.text


def test_it_ends_when_it_is_told_to_and_leaves_no_thread(stage):
    before = threading.active_count()
    one = stage()
    one.connect()
    one.close()
    assert not one.thread.is_alive()
    assert threading.active_count() == before


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:notaport"])
def test_an_address_that_is_none_says_so_in_one_line(address, tmp_path):
    source = ZMQSource(Taken(), address, RefusedMessages(tmp_path))
    with pytest.raises(ConfigurationError, match=address):
        source.run(threading.Event())


def test_a_prefix_with_a_space_says_so_in_one_line(tmp_path):
    source = ZMQSource(Taken(), "127.0.0.1:1", RefusedMessages(tmp_path), prefix="a b")
    with pytest.raises(ConfigurationError, match="no spaces"):
        source.run(threading.Event())


def test_a_source_that_hangs_is_told_of(stage):
    clock = SimpleNamespace(now=1_000.0)
    signals = Signals(lambda: clock.now)
    one = stage(signals=signals)
    one.connect()
    hangs, goes_on = threading.Event(), threading.Event()
    one.callback.stop = lambda _: hangs.set() or goes_on.wait(60)
    one.publish(b" stop " + pickle.dumps({"run_start": "first"}))
    assert hangs.wait(20)
    clock.now += 1_000
    assert "has hung" in " ".join(signals.problems())
    goes_on.set()
    wait_until(lambda: not signals.problems(), 20)
