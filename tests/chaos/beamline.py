"""A whole beamline on one machine, each part of which can be killed, stopped, starved and brought back."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from bluesky_prefect.core import Settings
from bluesky_prefect.courier import running_courier
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.stack import LocalStack
from bluesky_prefect.stack._prefect import PrefectServer
from bluesky_prefect.stack._service import Service
from bluesky_prefect.stack._startup import Startup
from bluesky_prefect.stack._tiled import TiledServer
from bluesky_prefect.stack._worker import Worker
from tests.chaos.clocks import MachineClock
from tests.chaos.couriering import VARIABLE
from tests.chaos.emissions import Emissions
from tests.chaos.ledger import Ledger
from tests.chaos.prefect_view import PrefectView
from tests.chaos.processes import PAUSED, ROOT, AcquisitionProcess, ChaosProcess
from tests.services.brokers import RedisServer
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import wait_until
from tests.services.started_with import started_with

# What the stack's worker forks flow runs from.
_FORK_SERVER = "bluesky_prefect.worker.forkserver"
# Closed, so that the services on the internet refuse at once.
_REFUSING = "http://127.0.0.1:9"
_FLOW_SETTINGS = {
    "stop_timeout_s": 3.0,
    "weather_archive_url": _REFUSING,
    "weather_forecast_url": _REFUSING,
    "cat_fact_url": _REFUSING,
    "weather_timeout_s": 0.05,
    "cat_fact_timeout_s": 0.05,
}
_CLOCKS = ("courier", "prefect", "reconcile", "worker")
_SESSION = {
    "BLUESKY_PREFECT_RETRY_INITIAL_S": "0.2",
    "BLUESKY_PREFECT_RETRY_MAX_S": "2",
    "BLUESKY_PREFECT_REQUEST_TIMEOUT_S": "5",
    "BLUESKY_PREFECT_LEASE_S": "5",
}
# A worker that was killed is known to be gone within seconds.
_WORKER = {"PREFECT_WORKER_HEARTBEAT_SECONDS": "2"}
_SERVER = {"PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "2"}
# Nobody waits to be sure that something has crashed.
_HEALING = {
    "BLUESKY_PREFECT_SETTLE_S": "0",
    "BLUESKY_PREFECT_STUCK_AFTER_S": "1",
    "BLUESKY_PREFECT_HEARTBEAT_TIMEOUT_S": "1",
    "BLUESKY_PREFECT_RERUN_BACKOFF_S": "0",
    "COLUMNS": "200",
}


class Beamline:
    """Servers, executors, an acquisition process and its courier. To be used in a ``with`` statement.

    Parameters
    ----------
    root : Path
        An empty directory for all of their files.
    executors : int
        How many flow runs are executed at once.
    database : str, optional
        Address of an empty PostgreSQL database for Prefect, as SQLAlchemy takes it; SQLite by default.
    report : callable
        Is told in one line what happens.

    Attributes
    ----------
    prefect_proxy, tiled_proxy, courier_proxy : FaultProxy
        Between the acquisition, the courier and Prefect; between the flows and Tiled; between the courier and Tiled.
    prefect : PrefectView
        Prefect, asked directly.
    ledger : Ledger
        Which runs stopped.
    emissions : Emissions
        The documents of all runs.
    session : Path
        State directory of the acquisition and of the courier, with outbox and journals.
    journals : JournalDirectory
        The journals in it.
    cut : dict
        Runs whose journal a fault has cut, with how many documents it has left.
    damaged : set of str
        Those of them that are to be set aside.
    cache : RedisServer
        What Tiled's stream of updates needs.
    clocks : dict
        That of the Prefect server, and those of other processes that are started with one: ``courier``,
        ``reconcile``, ``worker``.
    """

    def __init__(
        self,
        root: Path,
        *,
        executors: int = 3,
        database: str | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.root = root
        self.session = root / "session"
        self.exports = root / "exports"
        self.ledger = Ledger(root / "ledger")
        self.emissions = Emissions(root / "ledger" / "emitted")
        self.journals = JournalDirectory(self.session / "journals")
        self.cut: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.report = report
        self._prefect_settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}
        self._how_many = executors
        self._executors: list[ChaosProcess] = []
        self._acquisition: AcquisitionProcess | None = None
        self._started: list[AcquisitionProcess] = []
        self._courier: ChaosProcess | None = None
        self._couriers: list[ChaosProcess] = []
        self._executing = root / "executing"
        values: dict[str, Any] = {"tiled_port": 0, "prefect_port": 0, "output_directory": self.exports}
        self.settings = Settings(state_directory=root / "stack", **values, **_FLOW_SETTINGS)
        self.stack = LocalStack(self.settings)

    def __enter__(self) -> Self:
        for directory in (self.root / "logs", self._executing):
            directory.mkdir()
        self.clocks = {name: MachineClock(self.root, f"{name}.clock") for name in _CLOCKS}
        server = {**_SERVER, **self._prefect_settings, **self.clocks["prefect"].environment}
        with ExitStack() as made:
            self.cache = made.enter_context(closing(RedisServer(self.root)))
            made.enter_context(_streaming(self.cache))
            made.enter_context(started_with(PrefectServer, server))
            made.enter_context(started_with(Worker, _WORKER))
            made.callback(self.stack.down, self.report, flow_runs_timeout_s=0)
            self.info = self.stack.up(self.report)
            self.kill("worker")  # it has made the deployment; what executes flow runs from here on starts faster
            self.kill("courier")  # the acquisition has a state directory of its own, and another courier
            self.prefect_proxy = made.enter_context(closing(FaultProxy(self.stack.processes()["prefect"].port)))
            self.tiled_proxy = made.enter_context(closing(FaultProxy(self.stack.processes()["tiled"].port)))
            self.courier_proxy = made.enter_context(closing(FaultProxy(self.stack.processes()["tiled"].port)))
            self.prefect = made.enter_context(closing(PrefectView(self.info)))
            self.prefect.list_long_ago()
            made.callback(self._kill_processes)
            self.keep_executing()
            self.start_courier()
            self._made = made.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def _kill_processes(self) -> None:
        for process in [*self._executors, *self._started, *self._couriers]:
            if process.alive:
                process.kill()

    @property
    def acquisition(self) -> AcquisitionProcess:
        """The acquisition process; a new one if the last was killed."""
        if self._acquisition is None or not self._acquisition.alive:
            self._acquisition = self.another_acquisition()
        return self._acquisition

    def another_acquisition(self, **variables: str) -> AcquisitionProcess:
        """Start one more acquisition process on the same outbox, with these variables in its environment."""
        number = len(self._started)
        log = self.root / "logs" / f"acquisition-{number}.log"
        self._started.append(AcquisitionProcess(self, {**self.session_environment(), **variables}, log))
        return self._started[-1]

    @property
    def courier(self) -> ChaosProcess:
        """The courier of the acquisition's state directory; a new one if the last was killed, as a session starts."""
        if self._courier is None or not self._courier.alive:
            self.start_courier()
        return self._courier

    def start_courier(self, kill: str = "", passes: int = 1) -> ChaosProcess:
        """Start a courier, the only one, and wait until it is at work.

        With `kill`, it kills itself when it passes that point for the `passes`-th time.
        """
        log = self.root / "logs" / f"courier-{len(self._couriers)}.log"
        module = "tests.chaos.couriering" if kill else "bluesky_prefect"
        armed = {VARIABLE: f"{kill} {passes}"} if kill else {}
        environment = {**self.session_environment(), **self.clocks["courier"].environment, **armed}
        self._courier = courier = ChaosProcess(module, ["courier"], environment, log)
        self._couriers.append(courier)
        settings = Settings(state_directory=self.session)
        wait_until(lambda: not courier.alive or running_courier(settings))
        assert courier.alive or kill, log.read_text()[-2000:]
        return courier

    def courier_log(self) -> str:
        """Return what all couriers have logged."""
        return "".join(path.read_text() for path in sorted((self.root / "logs").glob("courier-*.log")))

    def delivered_all(self, timeout_s: float = 120.0) -> None:
        """Wait until no run is on its way to Tiled."""
        wait_until(lambda: not self.journals.waiting(), timeout_s)

    def drain_emissions(self) -> None:
        """Wait until the campaign has all documents of acquisitions that have ended."""
        self.emissions.drain(alive=sum(one.alive for one in self._started))

    def session_environment(self) -> dict[str, str]:
        """Return the variables of what belongs to the acquisition."""
        return {
            **self.info.environment(),
            **_SESSION,
            "PREFECT_API_URL": self._prefect_api_url,
            "BLUESKY_PREFECT_TILED_URI": self.courier_proxy.url,
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(self.session),
        }

    def pid(self, service: str) -> int:
        return self.stack.processes()[service].pid

    def kill(self, service: str, *, whole_group: bool = True) -> None:
        """Kill ``prefect``, ``tiled`` or ``worker``, and what it has started unless told otherwise."""
        pid = self.pid(service)
        (os.killpg if whole_group else os.kill)(pid, signal.SIGKILL)
        wait_until(lambda: service not in self.stack.processes())

    def start(self, service: str) -> None:
        """Start a service that was killed, where it was, and wait until it works."""
        startup = Startup(self.stack.paths, self.stack.processes(), self.report)
        startup.start(self._service(service))
        startup.wait(lambda _: None)

    @contextmanager
    def stopped(self, service: str) -> Iterator[None]:
        """Have a service accept and never answer."""
        os.killpg(self.pid(service), signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid(service), signal.SIGCONT)

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Have no flow run executed: those under way are finished first."""
        paused = self._executing / PAUSED
        paused.touch()
        try:
            wait_until(lambda: not self._at_work(), timeout_s=150)
            yield
        finally:
            paused.unlink()

    def _at_work(self) -> bool:
        return any(one.alive and (self._executing / str(one.pid)).exists() for one in self._executors)

    @property
    def executors(self) -> list[ChaosProcess]:
        return self._executors

    def keep_executing(self) -> None:
        """Start executors in place of those that were killed."""
        self._executors = [one for one in self._executors if one.alive]
        while len(self._executors) < self._how_many:
            environment = {**self._flow_environment(), "TILED_RETRY_ATTEMPTS": "2"}
            log = self.root / "logs" / "executors.log"
            self._executors.append(ChaosProcess("tests.chaos.executor", [str(self._executing)], environment, log))

    def execute(self, flow_run_id: str, clock: MachineClock | None = None) -> ChaosProcess:
        """Start the process of a flow run, as a worker does that has taken it."""
        environment = {**self._flow_environment(), **(clock.environment if clock else {})}
        return ChaosProcess("prefect.engine", [flow_run_id], environment, self.root / "logs" / "late.log")

    def _flow_environment(self) -> dict[str, str]:
        return {
            **self._worker().environment(),
            "BLUESKY_PREFECT_TILED_URI": self.tiled_proxy.url,
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
        }

    def repair(self) -> None:
        """See to it that everything that should be there is there again; most faults repair what they broke."""
        for proxy in (self.prefect_proxy, self.tiled_proxy, self.courier_proxy):
            if proxy.mode != "pass":
                proxy.mode = "pass"
            if proxy.line is not None:
                proxy.line = None
        for service in ("tiled", "prefect"):
            if service not in self.stack.processes():
                self.start(service)
        if "worker" in self.stack.processes():  # a fault that could not be injected has left it behind, hurt
            self.kill("worker")
        self.keep_executing()
        _ = self.courier, self.acquisition  # somebody has to be there to send what waits

    def flow_processes(self) -> list[psutil.Process]:
        """Return the processes in which the stack's worker executes flow runs."""
        worker = psutil.Process(self.pid("worker"))
        servers = [child for child in worker.children() if _FORK_SERVER in child.cmdline()]
        return [child for child in worker.children(recursive=True) if child not in servers]

    def copy_prefect_database(self) -> Path:
        """Return a copy of Prefect's database, as a backup of this moment."""
        copy = self.root / "prefect-backup.db"
        copy.unlink(missing_ok=True)
        with sqlite3.connect(self._prefect_database) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close()
        target.close()
        return copy

    def restore_prefect_database(self, copy: Path) -> None:
        """Put a backup in place of Prefect's database; the server must not run."""
        for suffix in ("-wal", "-shm"):
            self._prefect_database.with_name(self._prefect_database.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(copy, self._prefect_database)

    def heal(self, since_s: float) -> None:
        """Have what crashed in the last so many seconds run again, as the local stack's own deployment does.

        Two people do it at the same moment. While nothing is executed: what says that it runs has crashed then, and
        nobody has to be patient to know.
        """
        with self.idle():
            people = [self.reconcile(since_s=since_s) for _ in range(2)]
            for person in people:
                person.wait()

    def reconcile(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        since_s: float = 3600.0,
        clock: MachineClock | None = None,
        module: str = "bluesky_prefect",
    ) -> subprocess.Popen:
        """Start ``bluesky-prefect reconcile --submit``, with other settings than when all is to be healed."""
        minutes = math.ceil(since_s / 60) + 1
        changes = {f"BLUESKY_PREFECT_{name}": value for name, value in (settings or {}).items()}
        environment = {
            **os.environ,
            **self._flow_environment(),
            "PREFECT_API_URL": self._prefect_api_url,  # a server is known by its address
            "BLUESKY_PREFECT_TILED_URI": self.info.tiled_uri,
            **_HEALING,
            **changes,
            **(clock.environment if clock else {}),
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(self.session),
        }
        command = [sys.executable, "-m", module, "reconcile", "--submit", "--since", f"{minutes}m"]
        with (self.root / "logs" / "reconcile.log").open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    @property
    def _prefect_api_url(self) -> str:
        return f"{self.prefect_proxy.url}/api"

    @property
    def _prefect_database(self) -> Path:
        return self.stack.paths.prefect / "prefect.db"

    def _worker(self) -> Worker:
        return Worker(self.stack.paths, self.info, self.settings)

    def _service(self, name: str) -> Service:
        if name == "prefect":
            port = int(self.info.prefect_ui_url.rsplit(":", 1)[1])
            return PrefectServer(self.stack.paths, port, self.info.prefect_auth_string.get_secret_value())
        if name == "tiled":
            port = int(self.info.tiled_uri.rsplit(":", 1)[1])
            return TiledServer(self.stack.paths, port, self.info.tiled_api_key.get_secret_value())
        return self._worker()


@contextmanager
def _streaming(cache: RedisServer) -> Iterator[None]:
    """Have this process start Tiled with a stream of updates."""
    prepare = TiledServer.prepare

    def prepare_and_add(server: TiledServer) -> None:
        prepare(server)
        path = server.paths.tiled / "config.yml"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "streaming_cache": {"uri": cache.uri}}))

    TiledServer.prepare = prepare_and_add
    try:
        yield
    finally:
        TiledServer.prepare = prepare
