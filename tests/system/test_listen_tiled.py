"""'bluesky-prefect listen tiled' on a real Tiled server, whose parts are killed: each run starts its workflows once."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing

import httpx
import pytest
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from tiled.client import from_context, from_uri
from tiled.structures.core import Spec

from bluesky_prefect import PrefectCallback, Settings
from bluesky_prefect.sources import _tiled_source
from bluesky_prefect.sources._seen_runs import SeenRuns
from bluesky_prefect.tiled_api import Catalog
from tests.services.listeners import Listener
from tests.services.prefect_process import PrefectProcess, wait_until
from tests.services.streaming_tiled import KEY, StreamingTiled

NEVER, OFTEN = {"BLUESKY_PREFECT_LISTEN_EVERY_S": "3600"}, {"BLUESKY_PREFECT_LISTEN_EVERY_S": "0.5"}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    server = StreamingTiled(tmp_path_factory.mktemp("tiled"))
    try:
        make_raw(server)
        yield server
    finally:
        server.close()


@pytest.fixture
def listen(tiled, tmp_path):
    """Start listeners, all with one state directory: each is the next process of the one before."""
    started: list[Listener] = []

    def start(*arguments: str, waits: bool = True, **environment: str) -> Listener:
        (tmp_path / "state" / "listener.log").unlink(missing_ok=True)
        before = tiled.cache.subscriptions()
        started.append(Listener(tmp_path / "state", "tiled", *arguments, **tiled.environment, **environment))
        if waits:
            started[-1].wait_for_line("Listening to")
            # Of what begins before that, the stream tells nothing.
            started[-1].wait_until(lambda: tiled.cache.subscriptions() > before)
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.close()


def make_raw(server):
    settings = Settings(tiled_uri=server.uri, tiled_api_key=KEY)
    with Catalog.connect(settings) as catalog:
        catalog.make_raw()


def begin(server, time_s=None, **metadata):
    """Write the beginning of a run to Tiled; return its uid, and what writes its end."""
    times = {} if time_s is None else {"time": time_s}
    client = from_uri(server.uri, api_key=KEY)
    writer = TiledWriter(client["raw"])
    run = compose_run(metadata={"plan_name": "count", **metadata})
    writer("start", run.start_doc | times)

    def stop():
        writer("stop", run.compose_stop() | times)
        client.context.close()

    return run.start_doc["uid"], stop


def take(server, time_s=None, **metadata):
    """Write a run to Tiled; return its uid."""
    uid, stop = begin(server, time_s, **metadata)
    stop()
    return uid


def test_the_stream_tells_of_a_run_that_stops(tiled, listen):
    listener = listen(**NEVER)
    uid = take(tiled, scan_id=7)
    listener.wait_for(uid)
    [entry] = listener.entries()
    assert (entry.submission.start["scan_id"], entry.submission.stop["exit_status"]) == (7, "success")


def test_runs_before_the_first_start_are_left_alone(tiled, listen):
    take(tiled)
    listener = listen(**OFTEN)
    uid = take(tiled)
    listener.wait_for(uid)
    assert listener.uids() == [uid]


def test_whoever_edits_the_metadata_of_an_old_run_starts_nothing(tiled, listen):
    old = take(tiled)
    listener = listen(**NEVER)
    first = take(tiled)
    listener.wait_for(first)
    listener.kill()
    listener = listen(**NEVER)
    with closing(from_uri(tiled.uri, api_key=KEY).context) as context:
        raw = from_context(context)["raw"]
        for uid in (old, first):
            raw[uid].update_metadata({"remark": "a good one"})
    uid = take(tiled)
    listener.wait_for(uid)
    assert [one.run_uid for one in listener.entries()] == [uid, first]


def test_where_most_known_runs_were_deleted_older_ones_are_left_alone(tiled, tmp_path, monkeypatch):
    monkeypatch.setattr(SeenRuns, "MOST", 30)
    for _ in range(3):
        take(tiled)
    uids = [take(tiled) for _ in range(30)]
    settings = Settings(tiled_uri=tiled.uri, tiled_api_key=KEY, state_directory=tmp_path)
    with (
        closing(PrefectCallback("a/local", settings=settings)) as callback,
        Catalog.connect(settings) as catalog,
        closing(from_uri(tiled.uri, api_key=KEY).context) as context,
    ):
        source, seen = _tiled_source.TiledSource(callback, settings), SeenRuns(tmp_path, "raw")
        source._look(catalog, seen)
        for uid in uids[:20]:
            from_context(context)["raw"].delete_contents(uid, recursive=True, external_only=False)
        uid = take(tiled)
        source._look(catalog, seen)
        assert [one.run_uid for one in callback.outbox.entries()] == [uid]


def test_since_reaches_back_before_the_first_start(tiled, listen):
    uid = take(tiled)
    listener = listen("--since", "1h", **NEVER)
    listener.wait_for(uid)


def test_runs_that_stop_while_the_listener_is_away_are_found(tiled, listen):
    first = listen(**OFTEN)
    begun, stop = begin(tiled)
    before = take(tiled)
    first.wait_for(before)
    [seen] = first.log.parent.glob("listen-tiled-*.json")
    first.wait_until(lambda: begun in seen.read_text())
    first.kill()
    stop()
    uids = {begun, *(take(tiled) for _ in range(30))}
    second = listen(**NEVER)
    second.wait_for(*uids)
    assert sorted(second.uids()) == sorted({before, *uids})


def test_a_run_under_another_key_than_its_uid_is_found_when_it_stops(tiled, listen):
    listener = listen(**OFTEN)
    uid, key = str(uuid.uuid4()), f"key-{uuid.uuid4()}"
    with closing(from_uri(tiled.uri, api_key=KEY).context) as context:
        raw = from_context(context)["raw"]
        start = {"uid": uid, "time": time.time(), "plan_name": "count"}
        run = raw.create_container(key, metadata={"start": start}, specs=[Spec("BlueskyRun", "3.0")])
        [seen] = listener.log.parent.glob("listen-tiled-*.json")
        listener.wait_until(lambda: key in json.loads(seen.read_text())["open"])
        listener.kill()
        # While nobody listens: no stream tells of it.
        run.update_metadata({"stop": {"uid": "s", "run_start": uid, "time": time.time()}})
    for _ in range(21):
        take(tiled)
    listen(**NEVER).wait_for(uid)


def test_a_listener_killed_while_it_catches_up_misses_none(tiled, listen):
    listen(**NEVER).kill()
    uids = [take(tiled) for _ in range(60)]
    second = listen(**NEVER, waits=False)
    second.wait_until(lambda: len(second.uids()) >= 5)
    second.kill()
    third = listen(**NEVER)
    third.wait_for(*uids)
    assert len(third.uids()) == 60


def test_runs_are_found_after_tiled_was_killed(tiled, listen):
    listener = listen(**OFTEN)
    tiled.kill()
    tiled.start()
    uid = take(tiled)
    listener.wait_for(uid)


def test_it_tells_prometheus_whether_tiled_is_there(tiled, listen):
    listener = listen(BLUESKY_PREFECT_METRICS_PORT="0", TILED_RETRY_ATTEMPTS="1", **OFTEN)
    listener.wait_for_line("/metrics")
    address = re.search(r"Metrics are at (http://\S+)/metrics", listener.log.read_text())[1]

    def reachable():
        return re.findall(r"^bluesky_prefect_tiled_reachable (\S+)", httpx.get(f"{address}/metrics").text, re.MULTILINE)

    listener.wait_until(lambda: reachable() == ["1.0"])
    tiled.kill()
    try:
        listener.wait_until(lambda: reachable() == ["0.0"])
    finally:
        tiled.start()
    listener.wait_until(lambda: reachable() == ["1.0"])
    assert httpx.get(f"{address}/healthz").json()["problems"] == []


def test_runs_are_found_after_the_cache_of_the_stream_has_forgotten_all(tiled, listen):
    listener = listen(**OFTEN)
    before = take(tiled)
    listener.wait_for(before)
    tiled.cache.close()
    tiled.cache.start()
    uids = [take(tiled) for _ in range(3)]
    listener.wait_for(*uids)
    assert sorted(listener.uids()) == sorted([before, *uids])


def test_a_run_delivered_long_after_it_was_taken_is_found(tiled, listen):
    listen(**OFTEN).kill()
    uid = take(tiled, time_s=1_780_000_000.0)
    listener = listen(**NEVER)
    listener.wait_for(uid)


def test_beside_a_callback_each_workflow_starts_once(tiled, listen, tmp_path, made_databases):
    prefect = PrefectProcess(tmp_path, databases=made_databases)
    prefect.start()
    try:
        prefect.deploy("my-workflow/local")
        listener = listen(PREFECT_API_URL=prefect.url, **OFTEN)
        environment = {**os.environ, **tiled.environment, "PREFECT_API_URL": prefect.url}
        environment["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(tmp_path / "session")
        command = [sys.executable, "-m", "tests.services.acquiring", "my-workflow/local", "5", "0.2"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        uids = [line.split()[0] for line in done.stdout.splitlines()]
        listener.wait_for(*uids)
        listener.wait_until(lambda: {entry.state for entry in listener.entries()} == {"sent"})
        assert [len(prefect.flow_runs(uid)) for uid in uids] == [1] * 5
    finally:
        prefect.kill()


def test_a_listener_of_a_tiled_that_hangs_ends_in_time(tiled, listen):
    listener = listen(**OFTEN)
    tiled.hang()
    try:
        listener.wait_until(lambda: not take_answer(tiled))
        assert listener.close() == 0
    finally:
        tiled.go_on()


def take_answer(tiled):
    """Tell whether Tiled answers within a second."""
    try:
        return httpx.get(f"{tiled.uri}/api/v1/", timeout=1, verify=False).is_success
    except httpx.TimeoutException:
        return False


def test_without_a_streaming_cache_runs_are_looked_for(tmp_path):
    server = StreamingTiled(tmp_path, streams=False)
    try:
        make_raw(server)
        listener = Listener(tmp_path / "state", "tiled", **server.environment, **OFTEN)
        try:
            listener.wait_for_line("streaming_cache")
            uid = take(server)
            listener.wait_for(uid)
        finally:
            assert listener.close() == 0
    finally:
        server.close()


class Lines(logging.Handler):
    """Keeps what is logged, whatever Prefect makes of the handlers of others."""

    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def test_each_end_of_the_stream_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(_tiled_source, "_STREAM_AGAIN_S", 3.0)
    monkeypatch.setattr(_tiled_source, "_STREAM_LASTS_S", 2.0)
    lines = Lines()
    _tiled_source.logger.addHandler(lines)
    server = StreamingTiled(tmp_path)
    finish = threading.Event()
    settings = Settings(tiled_uri=server.uri, tiled_api_key=KEY, state_directory=tmp_path / "state", listen_every_s=0.5)
    callback = PrefectCallback("a/local", settings=settings)
    source = threading.Thread(target=_tiled_source.TiledSource(callback, settings).run, args=[finish])

    def told():
        return ["again" if "again" in one else "end" for one in lines.said if "stream" in one]

    try:
        make_raw(server)
        server.restart(streams=False)
        source.start()
        wait_until(lambda: told() == ["end"], 60)
        server.restart(streams=True)
        wait_until(lambda: told() == ["end", "again"], 120)
        server.restart(streams=False)
        wait_until(lambda: told() == ["end", "again", "end"], 120)
    finally:
        finish.set()
        source.join(60)
        _tiled_source.logger.removeHandler(lines)
        callback.close()
        server.close()


def test_runs_of_another_beamline_in_the_same_catalog_start_nothing(tiled, listen, tmp_path):
    path = tmp_path / "workflows.py"
    ours = "lambda run: run.start.get('beamline_id') == 'srx'"
    path.write_text(f"from bluesky_prefect import WorkflowList\nworkflows = WorkflowList('a/local', ours={ours})\n")
    listener = listen("--workflows", f"{path}:workflows", **OFTEN)
    take(tiled, beamline_id="hxn")
    uid = take(tiled, beamline_id="srx")
    listener.wait_for(uid)
    assert listener.uids() == [uid]


def test_a_change_of_the_list_counts_for_the_next_run(tiled, listen, tmp_path):
    path = tmp_path / "workflows.py"
    path.write_text("from bluesky_prefect import Workflow\nworkflows = [Workflow('a/local')]\n")
    listener = listen("--workflows", f"{path}:workflows", **OFTEN)
    first = take(tiled)
    listener.wait_for(first)
    path.write_text("from bluesky_prefect import Workflow\nworkflows = [Workflow('a/local'), Workflow('b/local')]\n")
    second = take(tiled)
    listener.wait_for(second)
    assert sorted((entry.run_uid == second, entry.deployment) for entry in listener.entries()) == [
        (False, "a/local"),
        (True, "a/local"),
        (True, "b/local"),
    ]


def test_a_catalog_that_is_not_there_is_named(tiled, tmp_path):
    listener = Listener(tmp_path, "tiled", **tiled.environment, BLUESKY_PREFECT_RAW_CONTAINER=f"no-{uuid.uuid4()}")
    assert listener.process.wait(60) == 1
    assert "no-" in listener.log.read_text()
