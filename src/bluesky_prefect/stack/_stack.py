"""The local stack: Tiled server, Prefect server and worker on one machine."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from bluesky_prefect.core import OutboxError, Settings, StackError, comparable_url, counted, is_trusted, share_directory
from bluesky_prefect.courier import running_courier
from bluesky_prefect.outbox import existing_outbox
from bluesky_prefect.stack._courier import Courier, variables_of_this_process
from bluesky_prefect.stack._database import PrefectDatabase, choose_database, present_database
from bluesky_prefect.stack._drain import drain
from bluesky_prefect.stack._files import exclusive, make_private_directory
from bluesky_prefect.stack._info import StackInfo, StackPaths, StackState, ports_of, stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._outdated import courier_outdated, other_settings, server_outdated, worker_outdated
from bluesky_prefect.stack._ports import choose_port, hold_port, wait_until_free
from bluesky_prefect.stack._prefect import PrefectServer
from bluesky_prefect.stack._process import ManagedProcess, stop_processes
from bluesky_prefect.stack._readable import choose_readable
from bluesky_prefect.stack._service import Service
from bluesky_prefect.stack._startup import START_TIMEOUT_S, Report, Startup
from bluesky_prefect.stack._status import StackStatus, read_status
from bluesky_prefect.stack._tiled import TiledServer, make_containers
from bluesky_prefect.stack._worker import Worker
from bluesky_prefect.stack._workflow_file import make_workflow_file
from bluesky_prefect.stack.workarounds._tiled_app import index_runs

STOP_TIMEOUT_S = 10.0
# A session does not wait longer for somebody who is at work on the stack.
COURIER_TIMEOUT_S = 0.5
PORT_TIMEOUT_S = 3.0
FLOW_RUNS_TIMEOUT_S = 15.0
_UNRESPONSIVE_S = 10.0
_TITLES = {"tiled": TiledServer.title, "prefect": PrefectServer.title, "worker": Worker.title, "courier": Courier.title}
_SERVERS = ("tiled", "prefect")


class LocalStack:
    """The services of one state directory: start, find and stop them.

    They are processes of their own and outlive the one that starts them. Several processes may use this class
    on the same state directory at once.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._paths = StackPaths(settings.state_directory.absolute())

    @property
    def paths(self) -> StackPaths:
        """Paths of the stack's files."""
        return self._paths

    def processes(self) -> dict[str, ManagedProcess]:
        """Return the processes that run, by service name."""
        return {name: one for name, one in self._known().items() if one.is_alive()}

    def find(self) -> StackInfo | None:
        """Return the addresses of the running stack, or None unless both its servers are up.

        No other user of the machine can listen at them from then on, for as long as this process lives.
        """
        if not is_trusted(self._paths.root):
            return None  # another user wrote what stands there
        processes = self.processes()
        keys = StackKeys.load(self._paths)
        if keys is None or not all(name in processes and processes[name].ready for name in _SERVERS):
            return None
        if any(server_outdated(name, processes[name], keys) for name in _SERVERS):
            return None
        return stack_info(self._settings, ports_of(processes), keys)

    def status(self, *, flow_runs: int = 10) -> StackStatus:
        """Return how each part is, what the outbox holds, and the last `flow_runs` flow runs."""
        known = self._known()
        database = present_database(self._paths, known.get("prefect")).title
        return read_status(self._settings, self._paths, known, _TITLES, database=database, flow_runs=flow_runs)

    def up(self, report: Report = lambda _: None, *, any_port: bool = False) -> StackInfo:
        """Start what is not running, wait until all of it works, and return the addresses.

        With `any_port`, any free port is taken where the one that is set is in use by somebody else. `report` is told
        in one line what happens.

        Raises
        ------
        StackError
            If a port is in use, or a service does not come up; what this call started is then stopped again.
        """
        _require_extra()
        make_private_directory(self._paths.root)
        with exclusive(self._paths.lock, START_TIMEOUT_S):
            return self._up(report, any_port)

    def down(self, report: Report = lambda _: None, *, flow_runs_timeout_s: float = FLOW_RUNS_TIMEOUT_S) -> bool:
        """Stop what `up` started, and nothing else; return whether there was anything to stop.

        Flow runs under way get `flow_runs_timeout_s` seconds to finish; those that do not are stopped and marked as
        crashed. Those that wait for a worker go on waiting for the next one. `report` is told in one line what happens.
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
            for names in (("worker", "courier"), _SERVERS):
                # Also of those that died: flow runs of a killed worker may still be there.
                self._stop([known[name] for name in names if name in known])
                for name in (name for name in names if name in alive):
                    report(f"{_TITLES[name]}: stopped")
            self._save({})
            if alive.keys() & set(_SERVERS):
                state = StackState.load(self._paths.state)
                state.model_copy(update={"stopped_s": time.time()}).save(self._paths.state)
        return bool(alive)

    def start_courier(self) -> ManagedProcess | None:
        """Start a courier that uses this process's own servers, if the state directory has none, and return it.

        It goes on when this process has ended; `down` stops it. Does not wait until it is at work.

        Raises
        ------
        StackError
            If it cannot be started, or somebody else is starting or stopping the stack.
        """
        make_private_directory(self._paths.root)
        with exclusive(self._paths.lock, COURIER_TIMEOUT_S):
            known = self._known()
            if running_courier(self._settings) or ("courier" in known and known["courier"].is_alive()):
                return None
            make_private_directory(self._paths.logs)
            processes = dict(known)
            Startup(self._paths, processes, lambda _: None).start(Courier(self._settings, variables_of_this_process()))
            # As far as `up` and `down` are concerned: nobody waits for it.
            courier = processes["courier"] = processes["courier"].model_copy(update={"ready": True})
            self._save(processes)
            return courier

    def _save(self, processes: dict[str, ManagedProcess]) -> None:
        StackState.load(self._paths.state).with_processes(processes).save(self._paths.state)

    def _stop(self, processes: list[ManagedProcess]) -> None:
        stop_processes(processes, timeout_s=STOP_TIMEOUT_S)
        for process in processes:
            if process.port:
                wait_until_free(process.port, PORT_TIMEOUT_S)

    def _known(self) -> dict[str, ManagedProcess]:
        return StackState.load(self._paths.state).processes

    def _up(self, report: Report, any_port: bool) -> StackInfo:
        for directory in (self._paths.logs, self._paths.images):
            make_private_directory(directory)
        make_workflow_file(self._paths.workflows)
        known = self._known()
        running = {name: one for name, one in known.items() if one.ready and one.is_alive()}
        database = choose_database(self._settings.prefect_database_url, self._paths, running.get("prefect"), report)
        keys = StackKeys.load_or_make(self._paths)
        were_at = {name: known[name].port for name in _SERVERS if name in known}

        def drop(name: str, why: str) -> None:
            report(f"{_TITLES[name]}: restarting, since {why}")
            del running[name]
            # Whatever is left of it must free the port before that is looked at.
            self._stop([known.pop(name)])

        for name in _SERVERS:
            if name not in running:
                self._stop([known[name]] if name in known else [])
            elif why := server_outdated(name, running[name], keys) or self._unresponsive(name, running[name], keys):
                drop(name, why)
        ports = {name: self._port(name, running, any_port, report) for name in _SERVERS}
        for name in _SERVERS:
            if name not in running or running[name].is_ours:
                hold_port(ports[name])
        readable = choose_readable(self._settings, self._paths, is_running="tiled" in running, report=report)
        info = replace(stack_info(self._settings, ports, keys), readable=readable)
        self._take_backlog_along(were_at.get("prefect"), info, report)
        moved = any(were_at[name] != ports[name] for name in were_at)
        if "worker" in running and (why := worker_outdated(running["worker"], self._settings, keys, moved=moved)):
            drop("worker", why)
        if "courier" in running and (why := courier_outdated(running["courier"], keys, moved=moved)):
            drop("courier", why)
        servers = self._servers(ports, keys, database, readable)
        services: list[Service] = [*servers, Worker(self._paths, info, self._settings)]
        at_work = running_courier(self._settings)
        is_known = at_work and "courier" in known and at_work.process.endswith(f":{known['courier'].pid}")
        if at_work is None or is_known:  # else it is a service manager's
            services.append(Courier(self._settings, info.environment()))
        if remark := other_settings(services, running, self._settings):
            report(remark)
        missing = [service for service in services if service.name not in running]
        if not missing:
            report("The stack is already running.")
            return info
        self._start(missing, known, running, info, report)
        return info

    def _take_backlog_along(self, was_at: int | None, info: StackInfo, report: Report) -> None:
        """Have what waits for this stack's Prefect server sent to where it is from now on."""
        former = was_at or StackState.load(self._paths.state).last_ports.get("prefect")
        to = comparable_url(info.prefect_api_url)
        was = stack_info(self._settings, {"prefect": former or 0}, StackKeys.none())
        source = comparable_url(was.prefect_api_url)
        if to is None or source in (None, to):
            return
        try:
            with existing_outbox(self._settings.outbox_path) as outbox:
                if outbox and (moved := outbox.move(to, source=source)):
                    report(f"Outbox: {counted(moved, 'submission')} for {source} will be sent to {to}")
        except OutboxError as error:
            report(f"Outbox: what waits for {source} is not sent to {to}: {error}")

    def _servers(
        self,
        ports: dict[str, int],
        keys: StackKeys,
        database: PrefectDatabase | None = None,
        readable: tuple[Path, ...] = (),
    ) -> tuple[TiledServer, PrefectServer]:
        return (
            TiledServer(self._paths, ports["tiled"], keys.tiled.get_secret_value(), readable),
            PrefectServer(self._paths, ports["prefect"], keys.prefect.get_secret_value(), database),
        )

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
                report(
                    f"{service.title}: had ended or never finished starting (pid {known[service.name].pid}), restarting"
                )
                self._stop([known[service.name]])
        startup = Startup(self._paths, running, report)
        with self._undone_on_failure(running):
            for service in missing:
                startup.start(service)
            startup.wait(lambda service: self._finish(service, info))
        # SQLite lets no group write to what it makes, whatever the umask; its logs have the mode of their database.
        share_directory(self._paths.root, self._paths.prefect, self._paths.tiled)

    def _finish(self, service: Service, info: StackInfo) -> None:
        if isinstance(service, TiledServer):
            make_containers(info, self._settings)
            index_runs(service.catalog)

    def _unresponsive(self, name: str, process: ManagedProcess, keys: StackKeys) -> str:
        ports: dict[str, int] = dict.fromkeys(_SERVERS, process.port or 0)
        [server] = [server for server in self._servers(ports, keys) if server.name == name]
        deadline = time.monotonic() + _UNRESPONSIVE_S
        while not server.is_ready():
            if time.monotonic() > deadline:
                return "it does not answer any more"
            time.sleep(0.2)
        return ""

    def _port(self, name: str, running: dict[str, ManagedProcess], any_port: bool, report: Report) -> int:
        wanted = self._settings.tiled_port if name == "tiled" else self._settings.prefect_port
        if name in running:
            port = running[name].port or 0
            if f"{name}_port" in self._settings.model_fields_set and wanted not in (0, port):
                report(
                    f"{_TITLES[name]}: runs on port {port}, not on {wanted}. To change it: bluesky-prefect down, then "
                    f"up --{name}-port {wanted}"
                )
            return port
        state = StackState.load(self._paths.state)
        last = state.last_ports.get(name)

        def choose(port: int) -> int:
            return choose_port(
                port,
                last,
                service=_TITLES[name],
                option=f"--{name}-port",
                variable=f"BLUESKY_PREFECT_{name.upper()}_PORT",
                last_user=state.last_users.get(name),
                report=report,
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
        info = stack_info(self._settings, ports_of(alive), StackKeys.load(self._paths) or StackKeys.none())
        try:
            drain(
                info,
                self._settings.work_pool,
                stop_worker=lambda: self._stop([alive["worker"]]),
                timeout_s=timeout_s,
                report=report,
            )
        except StackError as error:
            report(f"Not waiting for running flow runs: {error}")


def _require_extra() -> None:
    missing = [name for name in ("tiled", "uvicorn", "duckdb", "bluesky_tiled_plugins") if find_spec(name) is None]
    if missing:
        raise StackError(
            f"The local stack needs {', '.join(missing)}, which are not installed. "
            'Install them with: pip install "bluesky-prefect[local]"'
        )
