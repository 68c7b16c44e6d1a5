"""Runs on their way to a real Tiled server, which goes away at the worst moments."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count, scan
from event_model import unpack_event_page
from tiled.profiles import load_profiles

from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.session._recorder import TiledRecorder
from bluesky_prefect.session._tiled import LazyClient, TiledConnection
from bluesky_prefect.sim import SimulatedDevices, make_devices, two_runs_interleaved
from bluesky_prefect.stack import StackInfo
from bluesky_prefect.tiled_api import read_documents, send_run


class Line:
    """A network line to a server that can be cut."""

    def __init__(self, url: str, port: int = 0) -> None:
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._ends: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.cut()

    def cut(self) -> None:
        """Refuse new connections and break those that are open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(stack: StackInfo) -> Iterator[Line]:
    line = Line(stack.tiled_uri)
    yield line
    line.cut()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def connection(stack: StackInfo, line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[TiledConnection]:
    import tiled.client.utils

    # As a session sets them in the environment, before Tiled is imported.
    monkeypatch.setattr(tiled.client.utils, "TILED_RETRY_ATTEMPTS", 3)
    monkeypatch.setattr(tiled.client.utils, "TILED_RETRY_TIMEOUT", 5.0)
    with contextlib.closing(TiledConnection(Settings(tiled_uri=line.url, tiled_api_key=stack.tiled_api_key))) as one:
        yield one


@pytest.fixture
def engine(connection: TiledConnection, tmp_path: Path, told: list[str]) -> RunEngine:
    engine = RunEngine()
    engine.subscribe(TiledRecorder(connection, directory=tmp_path / "unsaved-runs", tell=told.append))
    return engine


@pytest.fixture
def devices(stack: StackInfo) -> SimulatedDevices:
    return make_devices(stack.images)


def _kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "unsaved-runs").iterdir())


def test_a_run_is_in_tiled_as_a_whole_and_nothing_is_left_behind(engine, connection, devices, told, tmp_path):
    (uid,) = engine(scan([devices.det1, devices.image_det], devices.motor1, -1, 1, 3))

    run = connection.raw()[uid]
    assert run.metadata["stop"]["exit_status"] == "success"
    assert run["primary"]["det1"].read().tolist() == pytest.approx([5 * np.exp(-2), 5, 5 * np.exp(-2)])
    frames = run["primary"]["image_det"].read()
    assert frames.shape == (3, 64, 64)
    assert frames.sum(axis=(1, 2)).tolist() == run["primary"]["image_det_total"].read().tolist()
    assert told == []
    assert _kept(tmp_path) == []


def test_interleaved_runs_are_told_apart(engine, connection, devices, told):
    uids = engine(two_runs_interleaved(devices.det1, devices.det2, 3))

    fields = [set(connection.raw()[uid]["primary"]) for uid in uids]
    assert "det1" in fields[0] - fields[1]
    assert "det2" in fields[1] - fields[0]
    assert told == []


def test_whatever_metadata_somebody_types_the_run_is_in_tiled(engine, connection, devices, told):
    hostile: dict[str, Any] = {
        "angles": np.arange(3),
        "rate": float("nan"),
        "raw_bytes": b"\x00\xff",
        "plan_name": "../../etc/x",
        "text": "x" * 1_000_000,
        "thing": object(),
        "half_a_character": "\ud800",
    }

    (uid,) = engine(count([devices.det], 1), **hostile)

    assert told == []
    assert connection.raw()[uid].metadata["start"]["plan_name"] == "../../etc/x"


def test_tiled_gone_in_the_middle_of_a_run_costs_seconds_and_no_data(engine, devices, line, told, tmp_path):
    engine.subscribe(lambda *_: line.cut(), "descriptor")
    begin = time.monotonic()

    (uid,) = engine(count([devices.det], 4))

    assert time.monotonic() - begin < 15
    (message,) = told
    assert message.startswith(f"Run {uid[:8]}")
    (path,) = _kept(tmp_path)
    events = [event for name, doc in read_documents(path) if name == "event_page" for event in unpack_event_page(doc)]
    assert len(events) == 4


def test_with_tiled_gone_the_next_runs_do_not_wait_for_it(engine, devices, line, told):
    engine(count([devices.det], 1))
    line.cut()
    begin = time.monotonic()

    for _ in range(3):
        engine(count([devices.det], 1))

    assert time.monotonic() - begin < 3
    assert len(told) == 3


@pytest.fixture
def raw(stack: StackInfo) -> Iterator[Any]:
    """The catalog of runs, over a line of its own."""
    settings = Settings(tiled_uri=stack.tiled_uri, tiled_api_key=stack.tiled_api_key)
    with contextlib.closing(TiledConnection(settings)) as direct:
        yield direct.raw()


@pytest.mark.parametrize("cut_after", ["before the run", "descriptor", "stream_datum"])
def test_what_was_kept_can_be_sent_to_tiled_later(engine, devices, line, raw, tmp_path, cut_after: str):
    if cut_after == "before the run":
        line.cut()
    else:
        engine.subscribe(lambda *_: line.cut(), cut_after)
    (uid,) = engine(count([devices.det, devices.image_det], 2))
    (path,) = _kept(tmp_path)

    assert send_run(path, raw) == uid

    primary = raw[uid]["primary"]
    assert primary["det"].read().tolist() == [1, 1]
    assert primary["image_det"].read().shape == (2, 64, 64)
    assert raw[uid].metadata["stop"]["exit_status"] == "success"
    assert _kept(tmp_path) == []


def test_what_neither_tiled_nor_the_disk_took_gets_to_tiled_later(
    stack, connection, devices, line, raw, told, tmp_path
):
    (tmp_path / "unsaved-runs").write_text("in the way")
    recorder = TiledRecorder(connection, directory=tmp_path / "unsaved-runs", tell=told.append)
    engine = RunEngine()
    engine.subscribe(recorder)
    line.cut()
    (uid,) = engine(count([devices.det, devices.image_det], 2))
    assert "only this session's memory holds" in told[0]

    with contextlib.closing(Line(stack.tiled_uri, line.port)):
        recorder.close()

    assert told[1].endswith("is in Tiled now")
    assert raw[uid]["primary"]["det"].read().tolist() == [1, 1]
    assert raw[uid].metadata["stop"]["exit_status"] == "success"


def test_a_file_of_a_run_that_is_whole_in_tiled_is_deleted_and_nothing_else(engine, devices, line, raw, tmp_path):
    line.cut()
    (uid,) = engine(count([devices.det], 1))
    (path,) = _kept(tmp_path)
    content = path.read_bytes()
    send_run(path, raw)
    raw[uid].update_metadata({"mark": "the same"})
    path.write_bytes(content)  # as where a session is killed between the two

    assert send_run(path, raw) == uid

    assert raw[uid].metadata["mark"] == "the same"
    assert _kept(tmp_path) == []


def test_a_run_that_its_session_is_writing_is_not_sent(engine, devices, line, raw, tmp_path):
    refused = []

    def send(name, doc):
        (path,) = _kept(tmp_path)
        with pytest.raises(ConfigurationError, match="being written by its session") as caught:
            send_run(path, raw)
        refused.append(caught)

    line.cut()
    engine.subscribe(send, "descriptor")
    engine(count([devices.det], 1))
    assert len(refused) == 1


def test_a_file_without_the_end_of_its_run_is_not_sent(engine, devices, line, raw, tmp_path):
    line.cut()
    engine(count([devices.det], 2))
    (path,) = _kept(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(ConfigurationError, match="no whole run"):
        send_run(path, raw)

    assert path.exists()


def test_a_missing_api_key_is_said_and_nothing_asks_for_a_password(stack: StackInfo):
    connection = TiledConnection(Settings(tiled_uri=stack.tiled_uri, tiled_api_key=None))

    with pytest.raises(ConfigurationError, match="TILED_API_KEY"):
        connection.root()


def test_a_session_finds_its_tiled_by_a_profile_and_asks_for_no_password(stack: StackInfo):
    profiles = Path.home() / ".config/tiled/profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    (profiles / "session.yml").write_text(f"of-a-session:\n  uri: {stack.tiled_uri}\n")
    load_profiles.cache_clear()  # a test before this one may have read them
    settings = Settings(tiled_uri=None, tiled_profile="of-a-session", tiled_api_key=stack.tiled_api_key)

    with contextlib.closing(TiledConnection(settings)) as connection:
        assert connection.raw().path_parts == ["raw"]
    with pytest.raises(ConfigurationError, match="wants an API key: set TILED_API_KEY"):
        TiledConnection(settings.model_copy(update={"tiled_api_key": None})).root()


def test_a_missing_catalog_is_said(stack: StackInfo):
    settings = Settings(tiled_uri=stack.tiled_uri, tiled_api_key=stack.tiled_api_key, raw_container="elsewhere")

    with (
        contextlib.closing(TiledConnection(settings)) as connection,
        pytest.raises(ConfigurationError, match="elsewhere"),
    ):
        connection.raw()


def test_a_lazy_client_stands_for_the_catalog(connection, engine, devices):
    (uid,) = engine(count([devices.det], 1))
    raw = LazyClient(connection.raw)

    assert raw[-1].start["uid"] == uid
    assert uid in raw
    assert len(raw) == len(connection.raw())
