"""The local stack: Tiled server, Prefect server and worker on one machine."""

import contextlib
import time
from collections.abc import Iterator
from importlib.util import find_spec

from bluesky_prefect.exceptions import StackError
from bluesky_prefect.private import share
from bluesky_prefect.settings import Settings
from bluesky_prefect.stack.database import choose_database, present_database
from bluesky_prefect.stack.drain import drain
from bluesky_prefect.stack.files import exclusive, private_directory
from bluesky_prefect.stack.info import StackInfo, StackPaths, StackState, stack_info
from bluesky_prefect.stack.ports import choose_port, wait_until_free
from bluesky_prefect.stack.prefect import PrefectServer
from bluesky_prefect.stack.process import ManagedProcess, stop_processes
from bluesky_prefect.stack.service import Service
from bluesky_prefect.stack.startup import START_TIMEOUT_S, Report, Startup
from bluesky_prefect.stack.status import StackStatus, read_status
from bluesky_prefect.stack.tiled import TiledServer, load_key, load_or_make_key, make_containers
from bluesky_prefect.stack.tiled_app import index_times
from bluesky_prefect.stack.worker import WORKER_TYPE, Worker

STOP_TIMEOUT_S = 10.0
PORT_TIMEOUT_S = 3.0
FLOW_RUNS_TIMEOUT_S = 15.0
_UNRESPONSIVE_S = 10.0
_TITLES = {"tiled": TiledServer.title, "prefect": PrefectServer.title, "worker": Worker.title}
_SERVERS = ("tiled", "prefect")


def _silent(message: str) -> None:
    del message


class LocalStack:
    """The services of one state directory: start, find and stop them.

    They are processes of their own and outlive the one that starts them. Several processes may use this class
    on the same state directory at once.

    Parameters
    ----------
    settings : Settings
        Where the state is, which ports to use, and what the worker hands on to the flows.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._paths = StackPaths(settings.state_directory.absolute())

    @property
    def paths(self) -> StackPaths:
        """Where the stack keeps its files."""
        return self._paths

    def processes(self) -> dict[str, ManagedProcess]:
        """Return the processes that run, by service name."""
        return {name: one for name, one in self._known().items() if one.is_alive()}

    def find(self) -> StackInfo | None:
        """Return the addresses of the running stack, or None unless both its servers are up."""
        processes = self.processes()
        key = load_key(self._paths)
        if key is None or not all(name in processes and processes[name].ready for name in _SERVERS):
            return None
        return self._info({name: processes[name].port or 0 for name in _SERVERS}, key)

    def status(self, *, flow_runs: int = 10) -> StackStatus:
        """Return how each part is, what the outbox holds, and the last `flow_runs` flow runs."""
        known = self._known()
        database = present_database(self._paths, known.get("prefect")).title
        return read_status(self._settings, self._paths, known, _TITLES, database=database, flow_runs=flow_runs)

    def up(self, report: Report = _silent, *, any_port: bool = False) -> StackInfo:
        """Start what is not running, wait until all of it works, and return the addresses.

        Parameters
        ----------
        report : callable
            Is told in one line what happens.
        any_port : bool
            Take any free port where the one that is set is in use by somebody else.

        Raises
        ------
        StackError
            If a port is in use, or a service does not come up; what this call started is then stopped again.
        """
        _require_extra()
        private_directory(self._paths.root)
        with exclusive(self._paths.lock, START_TIMEOUT_S):
            return self._up(report, any_port)

    def down(self, report: Report = _silent, *, flow_runs_timeout_s: float = FLOW_RUNS_TIMEOUT_S) -> bool:
        """Stop what `up` started, and nothing else; return whether there was anything to stop.

        Parameters
        ----------
        report : callable
            Is told in one line what happens.
        flow_runs_timeout_s : float
            How long flow runs under way get to finish, in seconds; those that do not are stopped and marked as
            crashed. Those that wait for a worker go on waiting for the next one.
        """
        if not self._paths.state.exists():
            report("No stack is running.")
            return False
        with exclusive(self._paths.lock, START_TIMEOUT_S):
            known = self._known()
            alive = {name: one for name, one in known.items() if one.is_alive()}
            if not alive:
                report("No stack is running.")
            if "worker" in alive and "prefect" in alive:
                self._finish_flow_runs(alive, flow_runs_timeout_s, report)
            for names in (("worker",), _SERVERS):
                # Also of those that died: flow runs of a killed worker may still be there.
                self._stop([known[name] for name in names if name in known])
                for name in (name for name in names if name in alive):
                    report(f"{_TITLES[name]}: stopped")
            self._save({})
        return bool(alive)

    def _save(self, processes: dict[str, ManagedProcess]) -> None:
        StackState.load(self._paths.state).with_processes(processes).save(self._paths.state)

    def _stop(self, processes: list[ManagedProcess]) -> None:
        stop_processes(processes, timeout_s=STOP_TIMEOUT_S)
        for process in processes:
            if process.port:
                wait_until_free(process.port, PORT_TIMEOUT_S)

    def _known(self) -> dict[str, ManagedProcess]:
        return StackState.load(self._paths.state).processes

    def _info(self, ports: dict[str, int], key: str) -> StackInfo:
        return stack_info(self._settings, tiled_port=ports["tiled"], prefect_port=ports["prefect"], key=key)

    def _up(self, report: Report, any_port: bool) -> StackInfo:
        for directory in (self._paths.logs, self._paths.images):
            private_directory(directory)
        known = self._known()
        running = {name: one for name, one in known.items() if one.ready and one.is_alive()}
        database = choose_database(self._settings.prefect_database_url, self._paths, running.get("prefect"), report)
        key = load_or_make_key(self._paths)
        self._drop_unresponsive(running, key, report)
        for name in _SERVERS:
            if name in known and name not in running:
                # Whatever is left of it must free the port before that is looked at.
                self._stop([known[name]])
        ports = {name: self._port(name, running, any_port, report) for name in _SERVERS}
        moved = any(name in known and known[name].port != ports[name] for name in _SERVERS)
        if "worker" in running and (moved or running["worker"].variable("TILED_API_KEY") not in (key, None)):
            del running["worker"]
            report(f"{_TITLES['worker']}: starting anew, since an address or Tiled's key has changed")
        elif "worker" in running and self._wants_another_worker(running["worker"]):
            del running["worker"]
            report(f"{_TITLES['worker']}: starting anew, as {self._settings.worker_type}")
        info = self._info(ports, key)
        services: list[Service] = [
            TiledServer(self._paths, ports["tiled"], key),
            PrefectServer(self._paths, ports["prefect"], database),
            Worker(self._paths, info, self._settings),
        ]
        missing = [service for service in services if service.name not in running]
        if not missing:
            report("The stack is already running.")
            return info
        self._start(missing, known, running, info, report)
        return info

    def _wants_another_worker(self, worker: ManagedProcess) -> bool:
        """Tell whether another type is asked for; who asks for none takes what there is."""
        asked = "worker_type" in self._settings.model_fields_set
        return asked and worker.variable(WORKER_TYPE) != self._settings.worker_type

    def _start(
        self,
        missing: list[Service],
        known: dict[str, ManagedProcess],
        running: dict[str, ManagedProcess],
        info: StackInfo,
        report: Report,
    ) -> None:
        for name, process in running.items():
            report(f"{_TITLES[name]}: already running (pid {process.pid})")
        for service in missing:
            if service.name in known:
                report(f"{service.title}: was gone or half-started (pid {known[service.name].pid}), starting it anew")
                self._stop([known[service.name]])
        startup = Startup(self._paths, running, report)
        with self._undone_on_failure(running):
            for service in missing:
                startup.start(service)
            startup.wait(lambda service: self._finish(service, info))
        # SQLite lets no group write to what it makes, whatever the umask; its logs have the mode of their database.
        share(self._paths.root, self._paths.prefect, self._paths.tiled)

    def _finish(self, service: Service, info: StackInfo) -> None:
        if isinstance(service, TiledServer):
            make_containers(info, self._settings)
            index_times(service.catalog)

    def _drop_unresponsive(self, running: dict[str, ManagedProcess], key: str, report: Report) -> None:
        servers: tuple[Service, ...] = (
            TiledServer(self._paths, _ports(running)["tiled"], key),
            PrefectServer(self._paths, _ports(running)["prefect"]),
        )
        for server in servers:
            if server.name not in running:
                continue
            deadline = time.monotonic() + _UNRESPONSIVE_S
            while not server.is_ready():
                if time.monotonic() > deadline:
                    report(f"{server.title}: does not answer any more, starting it anew")
                    del running[server.name]
                    break
                time.sleep(0.2)

    def _port(
        self,
        name: str,
        running: dict[str, ManagedProcess],
        any_port: bool,
        report: Report,
    ) -> int:
        if name in running:
            return running[name].port or 0
        wanted = self._settings.tiled_port if name == "tiled" else self._settings.prefect_port
        last = StackState.load(self._paths.state).last_ports.get(name)

        def choose(port: int) -> int:
            return choose_port(
                port,
                last,
                service=_TITLES[name],
                option=f"--{name}-port",
                variable=f"BLUESKY_PREFECT_{name.upper()}_PORT",
            )

        try:
            return choose(wanted)
        except StackError as error:
            if not any_port:
                raise
            port = choose(0)
            report(f"{_TITLES[name]}: taking port {port}. {error}")
            return port

    @contextlib.contextmanager
    def _undone_on_failure(self, running: dict[str, ManagedProcess]) -> Iterator[None]:
        before = dict(running)
        try:
            yield
        except BaseException:
            self._stop([one for name, one in running.items() if name not in before])
            self._save(before)
            raise

    def _finish_flow_runs(self, alive: dict[str, ManagedProcess], timeout_s: float, report: Report) -> None:
        try:
            drain(
                self._info(_ports(alive), "").prefect_api_url,
                self._settings.work_pool,
                stop_worker=lambda: self._stop([alive["worker"]]),
                timeout_s=timeout_s,
                report=report,
            )
        except StackError as error:
            report(f"Flow runs under way are not waited for: {error}")


def _ports(processes: dict[str, ManagedProcess]) -> dict[str, int]:
    return {name: (processes[name].port or 0) if name in processes else 0 for name in _SERVERS}


def _require_extra() -> None:
    missing = [name for name in ("tiled", "uvicorn", "duckdb", "bluesky_tiled_plugins") if find_spec(name) is None]
    if missing:
        raise StackError(
            f"The local stack needs {', '.join(missing)}, which are not installed. "
            'Install them with: pip install "bluesky-prefect[local]"'
        )
