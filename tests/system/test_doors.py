"""Who is let in, and what the others can read: real servers with keys, and everything that they leave on disk."""

import base64
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from bluesky_prefect.cli._comparison import run_folder
from bluesky_prefect.core import Settings
from bluesky_prefect.stack import LocalStack, StackInfo
from bluesky_prefect.stack._process import MARK
from tests.services.couriers import stop_courier
from tests.services.made_databases import MadeDatabases
from tests.services.outside import open_meteo
from tests.services.prefect_process import PrefectProcess, ask, user_of, wait_until
from tests.services.second_looks import look_again
from tests.system.secret_search import found_in

_SESSION = Path(__file__).with_name("beamline_session.py")
_USER = "ada:5ecret0fPrefect"
_TILED_USER = "ada:5ecret0fTheProxy"
# How pickles of protocols 2 to 5 begin, plain and in base64.
_PICKLES = [*(bytes([0x80, protocol]) + b"\x95" for protocol in (4, 5)), b"gASV", b"gAWV"]


class Session:
    """A beamline's session, held by its test."""

    def __init__(self, what: str, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(_SESSION), what],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                umask=0o022,
            )

    @cached_property
    def said(self) -> list[str]:
        """What it has printed when it is ready."""
        return list(iter(self._line, "READY\n"))

    @property
    def greeting(self) -> str:
        return self.said[0]

    @property
    def uid(self) -> str:
        [uid] = [line.split()[1] for line in self.said if line.startswith("UID ")]
        return uid

    def end(self) -> None:
        """Let it end once it is ready."""
        assert self.said
        self.process.communicate(timeout=60)

    def _line(self) -> str:
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        return line


class Watch:
    """Looks at the processes of a stack, whoever they start, until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._marks = {one.mark for one in LocalStack(settings).processes().values()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)
        self.command_lines: set[str] = set()
        self.listening: set[tuple[str, int]] = set()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(0.3):
            for process in psutil.process_iter():
                try:
                    if process.environ().get(MARK) in self._marks:
                        self._look_at(process)
                except (psutil.Error, OSError):
                    continue

    def _look_at(self, process: psutil.Process) -> None:
        self.command_lines.add(" ".join(process.cmdline()))
        for connection in process.net_connections(kind="inet"):  # of both kinds, TCP and UDP
            if connection.status == psutil.CONN_LISTEN or (connection.laddr and not connection.raddr):
                self.listening.add((connection.laddr.ip, connection.laddr.port))


# The local stack, while a session takes a scan and a flow run works on it.


@pytest.fixture(scope="module")
def watched(stack: StackInfo, stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """The stack's processes as seen meanwhile, and the uid of the run."""
    watch = Watch(stack_settings)
    try:
        log = tmp_path_factory.mktemp("session") / "session.log"
        session = Session("scan", log, {"BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory)})
        body = {"flow_runs": {"tags": {"all_": [f"uid:{session.uid}"]}}}

        def state() -> str:
            [found] = ask(stack, "POST", "/flow_runs/filter", json=body).raise_for_status().json()
            return found["state_type"]

        wait_until(lambda: state() == "COMPLETED")
    finally:
        watch.stop()
    yield watch, session.uid
    session.end()


def test_the_stack_and_its_flow_runs_listen_on_loopback_only(stack: StackInfo, watched):
    watch, _ = watched
    # Flow runs are forked from it, and watched as it is.
    assert any("bluesky_prefect.worker.forkserver" in line for line in watch.command_lines)
    assert {address for address, _ in watch.listening} == {"127.0.0.1"}
    assert {port for _, port in watch.listening} >= {
        httpx.URL(url).port for url in (stack.tiled_uri, stack.prefect_api_url)
    }


def test_a_foreign_page_in_a_browser_of_this_machine_may_ask_neither_server(stack: StackInfo):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}

    def let_in(url: str, origin: str) -> bool:
        answer = httpx.options(url, headers={**asked, "Origin": origin})
        return answer.headers.get("access-control-allow-origin") in {origin, "*"}

    for url in (f"{stack.prefect_api_url}/deployments/filter", f"{stack.tiled_uri}/api/v1/metadata/"):
        assert not let_in(url, "https://elsewhere.example")
    assert let_in(f"{stack.prefect_api_url}/deployments/filter", stack.prefect_ui_url)


def _open_to_others(paths: Iterator[Path]) -> dict[str, str]:
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in paths}
    assert modes
    return {path: oct(mode) for path, mode in modes.items() if mode & 0o077}


def test_everything_in_the_state_directory_is_its_owner_s(stack: StackInfo, watched):
    _, uid = watched
    root = stack.state_directory
    names = {path.name for path in root.rglob("*")}
    assert names >= {"outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-shm", "metadata.sqlite", "stack.json"}
    assert names >= {
        "tiled-api-key",
        "prefect-auth-string",
        "prefect.db",
        "catalog.db",
        "worker.log",
        "tiled.log",
        "prefect.log",
    }
    # What IPython keeps of its own, and what people write by hand, lies behind a closed directory.
    theirs = {root / name for name in ("exports", "images", "ipython")}
    state = (path for path in root.rglob("*") if not theirs & set(path.parents))
    assert _open_to_others(state) == {}
    assert _open_to_others(iter([root])) == {}
    assert _open_to_others(run_folder(stack.exports, uid).rglob("*")) == {}
    assert _open_to_others(stack.images.rglob("image_det_*.h5")) == {}


def test_the_keys_are_on_no_command_line_and_in_no_file_but_their_own(stack: StackInfo, watched):
    watch, _ = watched
    key, user = stack.tiled_api_key.get_secret_value(), user_of(stack)
    # A browser that is sent to the server with the key in the address must not leave it in a log either.
    httpx.get(f"{stack.tiled_uri}/api/v1/metadata/", params={"api_key": key}).raise_for_status()
    password = user.partition(":")[2]
    assert not [line for line in watch.command_lines if key in line or password in line]
    assert {path.name for path, _ in found_in(stack.state_directory, key)} == {"tiled-api-key"}
    # Prefect's database, the outbox, logs and exported files are all there.
    assert {path.name for path, _ in found_in(stack.state_directory, user, password)} == {"prefect-auth-string"}


# A Prefect server and a Tiled server with credentials, such as a facility has them.


class Facility:
    """Servers that want credentials, and a scan's way through them.

    Parameters
    ----------
    stack : StackInfo
        Lends its Tiled server, which wants a key.
    folder : Path
        Everything that is written goes here.
    """

    def __init__(self, stack: StackInfo, folder: Path, databases: MadeDatabases) -> None:
        self.stack = stack
        self.folder = folder
        self.prefect = PrefectProcess(folder / "prefect", user=_USER, databases=databases)
        self.tiled_key = stack.tiled_api_key.get_secret_value()
        self.state, self.output, self.home = (folder / name for name in ("state", "output", "home"))
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.weather = open_meteo()
        self._tiled = {"BLUESKY_PREFECT_TILED_URI": stack.tiled_uri.replace("://", f"://{_TILED_USER}@")}

    @property
    def secrets(self) -> list[str]:
        users = [_USER, _TILED_USER, user_of(self.stack)]
        return [self.tiled_key, *users, *(user.partition(":")[2] for user in users)]

    def session(self, what: str, **changes: str | None) -> Session:
        """Open a beamline's session; its Prefect address holds the password."""
        environment = {
            **self._tiled,
            "TILED_API_KEY": self.tiled_key,
            "PREFECT_API_URL": self.prefect.url.replace("://", f"://{_USER}@"),
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(self.state),
            **changes,
        }
        kept = {name: value for name, value in environment.items() if value is not None}
        return Session(what, self.logs / f"session-{len(list(self.logs.iterdir()))}.log", kept)

    def run(self, *module: str, **changes: str) -> str:
        """Run a module as a worker has it: Tiled's key lies in a block. Return what it logged."""
        environment = {
            **os.environ,
            **self._tiled,
            "BLUESKY_PREFECT_TILED_API_KEY_BLOCK": "tiled-key",
            "PREFECT_API_URL": self.prefect.url,
            "PREFECT_API_AUTH_STRING": _USER,
            "PREFECT_HOME": str(self.home),
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(self.output),
            # Of a customer, who has a key in the address.
            "BLUESKY_PREFECT_WEATHER_ARCHIVE_URL": f"{self.weather.url}/v1/archive?apikey={self.tiled_key}",
            "BLUESKY_PREFECT_WEATHER_FORECAST_URL": f"{self.weather.url}/v1/forecast?apikey={self.tiled_key}",
            "BLUESKY_PREFECT_CAT_FACT_URL": "http://127.0.0.1:9/fact",
            **changes,
        }
        done = subprocess.run([sys.executable, "-m", *module], env=environment, capture_output=True, check=False)
        logged = done.stdout + done.stderr
        (self.logs / f"run-{len(list(self.logs.iterdir()))}.log").write_bytes(logged)
        assert done.returncode == 0, logged.decode()[-5000:]
        return logged.decode()

    def close(self) -> None:
        stop_courier(self.state)
        self.prefect.kill()
        self.weather.close()


@pytest.fixture(scope="module")
def facility(
    stack: StackInfo, tmp_path_factory: pytest.TempPathFactory, made_databases: MadeDatabases
) -> Iterator[Facility]:
    made = Facility(stack, tmp_path_factory.mktemp("facility"), made_databases)
    try:
        made.prefect.start()
        made.prefect.make_work_pool("pool")
        with temporary_settings({PREFECT_API_URL: made.prefect.url, PREFECT_API_AUTH_STRING: _USER}):
            Secret(value=made.tiled_key).save("tiled-key")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def flow_run(facility: Facility) -> dict:
    """What became of a scan that was taken there."""
    deployed = facility.run("bluesky_prefect", "deploy", "--work-pool", "pool")
    assert "Deployed my-workflow/local" in deployed
    assert "TILED_API_KEY" not in deployed
    session = facility.session("scan", BLUESKY_PREFECT_START_COURIER="true")
    session.end()
    [created] = facility.prefect.flow_runs(session.uid)
    facility.run("prefect.engine", created["id"])
    [found] = facility.prefect.flow_runs(session.uid)
    return {**found, "uid": session.uid}


def test_with_credentials_on_both_servers_a_scan_becomes_files(facility, flow_run):
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]
    assert {path.suffix for path in run_folder(facility.output, flow_run["uid"]).iterdir()} >= {".csv", ".png", ".txt"}


def test_no_secret_is_left_in_outbox_prefect_database_logs_and_exported_files(facility, flow_run, watched):
    searched = {path.name for path in facility.folder.rglob("*")}
    assert searched >= {"outbox.sqlite", "metadata.sqlite", "prefect.db", "server.log", "storage"}
    assert found_in(facility.folder, *facility.secrets) == []
    passwords = [secret for user in (_USER, _TILED_USER) for secret in (user, user.partition(":")[2])]
    assert found_in(facility.stack.state_directory, *passwords) == []


@pytest.mark.parametrize("plant", [str.encode, lambda secret: base64.b64encode(secret.encode())])
def test_the_search_finds_a_secret_that_is_there(tmp_path: Path, plant: Callable[[str], bytes]):
    (tmp_path / "deep").mkdir()
    with closing(sqlite3.connect(tmp_path / "deep" / "some.db")) as database, database:
        database.execute("CREATE TABLE log (message TEXT)")
        database.execute("INSERT INTO log VALUES (?)", (f"with key {plant('s3cret-of-mine').decode()} refused",))
    assert [path.name for path, _ in found_in(tmp_path, "another", "s3cret-of-mine")] == ["some.db"]


def test_submissions_and_parameters_are_json_and_results_are_no_pickles(facility, flow_run):
    with closing(sqlite3.connect(facility.state / "outbox.sqlite")) as outbox:
        [[submission]] = outbox.execute("SELECT submission FROM entries")
    assert json.loads(submission)["run_uid"] == flow_run["uid"]
    with closing(sqlite3.connect(facility.prefect.database)) as database:
        rows = database.execute("SELECT parameters FROM flow_run").fetchall()
    assert {"ref": flow_run["uid"]} in [json.loads(parameters) for [parameters] in rows]
    results = [path for path in (facility.home / "storage").rglob("*") if path.is_file()]
    assert {json.loads(path.read_bytes())["metadata"]["serializer"]["type"] for path in results} == {"json"}
    written = [path for root in (facility.state, facility.home, facility.prefect.database) for path in _files(root)]
    assert [path for path in written for mark in _PICKLES if mark in path.read_bytes()] == []


def _files(root: Path) -> list[Path]:
    return [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def refused(facility: Facility, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Session]]:
    """Sessions with wrong credentials, and with none."""
    opened: list[Session] = []

    def open_one(key: str | None, user: str | None) -> Session:
        opened.append(
            facility.session(
                "look",
                TILED_API_KEY=key,
                PREFECT_API_URL=facility.prefect.url,
                PREFECT_API_AUTH_STRING=user,
                BLUESKY_PREFECT_STATE_DIRECTORY=str(tmp_path_factory.mktemp("refused")),
            )
        )
        return opened[-1]

    credentials = {"wrong": ("wr0ngkey", "nobody:wr0ngkey"), "missing": (None, None)}
    yield {
        kind: look_again(lambda given=given: open_one(*given), said=lambda session: session.greeting)
        for kind, given in credentials.items()
    }
    for session in opened:
        session.end()


@pytest.mark.parametrize(
    ("kind", "of_tiled", "of_prefect"),
    [
        ("wrong", "refuses the API key: check TILED_API_KEY", "refuses the credentials"),
        ("missing", "wants an API key: set TILED_API_KEY", "wants credentials, and none are set"),
    ],
)
def test_the_greeting_tells_of_credentials_that_do_not_open_with_the_setting(refused, kind, of_tiled, of_prefect):
    greeting = refused[kind].greeting
    assert greeting.startswith("No Tiled, no Prefect (")
    assert of_tiled in greeting
    assert of_prefect in greeting
    assert greeting.strip().endswith("Check PREFECT_API_AUTH_STRING or PREFECT_API_KEY")


@pytest.mark.parametrize("kind", ["wrong", "missing"])
def test_a_callback_tells_of_credentials_that_do_not_open_before_there_is_a_run(refused, kind):
    log = refused[kind].log
    # Somebody's own profile has no greeting; the forwarder asks with what Prefect itself takes for its settings.
    wait_until(lambda: "ERROR:bluesky_prefect.courier._forwarder:Runs will wait" in log.read_text())
    assert "refuses the credentials (401). Check PREFECT_API_AUTH_STRING or PREFECT_API_KEY" in log.read_text()
    assert "wr0ngkey" not in "".join(refused[kind].said) + log.read_text()


def test_a_worker_s_environment_that_tiled_refuses_is_told_when_it_deploys(facility: Facility):
    said = facility.run("bluesky_prefect", "deploy", "--work-pool", "pool", TILED_API_KEY="wr0ngkey")
    assert "answered with HTTP status 401: set TILED_API_KEY" in said
    assert "wr0ngkey" not in said
