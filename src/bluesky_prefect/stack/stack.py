"""The local stack: Tiled server, Prefect server and worker on one machine."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec

from bluesky_prefect.exceptions import StackError
from bluesky_prefect.settings import Settings
from bluesky_prefect.stack.files import exclusive, private_directory
from bluesky_prefect.stack.info import StackInfo, StackPaths, StackState, stack_info
from bluesky_prefect.stack.ports import choose_port
from bluesky_prefect.stack.prefect import PrefectServer
from bluesky_prefect.stack.process import ManagedProcess, start_process, stop_processes
from bluesky_prefect.stack.service import Service
from bluesky_prefect.stack.tiled import TiledServer, load_key, load_or_make_key, make_containers
from bluesky_prefect.stack.worker import DEPLOYMENT, Worker

Report = Callable[[str], None]

# A first start compiles a few thousand modules and makes two databases: a minute on a slow disk.
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0
FLOW_RUNS_TIMEOUT_S = 15.0
_SERVERS = ("tiled", "prefect")


def _silent(message: str) -> None:
    del message


@dataclass
class _Start:
    """A service on its way up."""

    service: Service
    process: ManagedProcess
    since: float = field(default_factory=time.monotonic)


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

    # Finding.

    @property
    def paths(self) -> StackPaths:
        """Where the stack keeps its files."""
        return self._paths

    def processes(self) -> dict[str, ManagedProcess]:
        """Return the processes that run, by service name."""
        processes = StackState.load(self._paths.state).processes
        return {name: one for name, one in processes.items() if one.is_alive()}

    def find(self) -> StackInfo | None:
        """Return the addresses of the running stack, or None unless both its servers are up."""
        processes = self.processes()
        key = load_key(self._paths)
        if key is None or not all(name in processes and processes[name].ready for name in _SERVERS):
            return None
        return self._info(processes, key)

    def _info(self, processes: dict[str, ManagedProcess], key: str) -> StackInfo:
        tiled, prefect = (processes[name].port or 0 for name in _SERVERS)
        return stack_info(self._settings, tiled_port=tiled, prefect_port=prefect, key=key)

    # Starting.

    def up(self, report: Report = _silent) -> StackInfo:
        """Start what is not running, wait until all of it works, and return the addresses.

        Parameters
        ----------
        report : callable
            Is told in one line what happens.

        Raises
        ------
        StackError
            If a port is in use, or a service does not come up; what this call started is then stopped again.
        """
        _require_extra()
        private_directory(self._paths.root)
        with exclusive(self._paths.lock, START_TIMEOUT_S):
            return self._up(report)

    def _up(self, report: Report) -> StackInfo:
        private_directory(self._paths.logs)
        known = StackState.load(self._paths.state).processes
        running = self._keep_working(known, report)
        key = load_or_make_key(self._paths)
        ports = self._ports(known, running)
        info = stack_info(self._settings, tiled_port=ports["tiled"], prefect_port=ports["prefect"], key=key)
        services: list[Service] = [
            TiledServer(self._paths, ports["tiled"], key),
            PrefectServer(self._paths, ports["prefect"]),
            Worker(self._paths, info, self._settings),
        ]
        missing = [service for service in services if service.name not in running]
        if not missing:
            report("The stack is already running.")
            return info
        with self._undone_on_failure(running):
            starts = [self._start(service, running, report) for service in missing]
            self._wait(starts, running, report, info)
        report(f"Deployment {DEPLOYMENT}: ready")
        return info

    def _keep_working(self, known: dict[str, ManagedProcess], report: Report) -> dict[str, ManagedProcess]:
        running = {name: one for name, one in known.items() if one.is_alive()}
        stale = {name: one for name, one in running.items() if not one.ready}
        # A worker belongs to one server and its address: it goes when either server went.
        if "worker" in running and not all(name in running for name in _SERVERS):
            stale["worker"] = running["worker"]
        for name, one in stale.items():
            report(f"{name}: found half-started (pid {one.pid}), starting it anew")
            del running[name]
        # Also those that died: flow runs of a killed worker may still be there.
        stop_processes([one for name, one in known.items() if name not in running], timeout_s=STOP_TIMEOUT_S)
        for name, one in running.items():
            report(f"{name}: already running (pid {one.pid})")
        for name in known.keys() - running.keys() - stale.keys():
            report(f"{name}: is gone, starting it again")
        return running

    def _ports(self, known: dict[str, ManagedProcess], running: dict[str, ManagedProcess]) -> dict[str, int]:
        ports = {}
        for name, wanted in (("tiled", self._settings.tiled_port), ("prefect", self._settings.prefect_port)):
            if name in running:
                ports[name] = running[name].port or 0
                continue
            ports[name] = choose_port(
                wanted,
                known[name].port if name in known else None,
                service=f"{name.capitalize()} server",
                option=f"--{name}-port",
                variable=f"BLUESKY_PREFECT_{name.upper()}_PORT",
            )
        return ports

    @contextlib.contextmanager
    def _undone_on_failure(self, running: dict[str, ManagedProcess]) -> Iterator[None]:
        before = dict(running)
        try:
            yield
        except BaseException:
            stop_processes([one for name, one in running.items() if name not in before], timeout_s=STOP_TIMEOUT_S)
            self._save(before)
            raise

    def _start(self, service: Service, running: dict[str, ManagedProcess], report: Report) -> _Start:
        service.prepare()
        log = self._paths.logs / f"{service.name}.log"
        process = start_process(
            service.command(),
            service.environment(),
            directory=self._paths.root,
            log=log,
            port=service.port,
            umask=service.umask,
        )
        running[service.name] = process
        # At once: should this process be killed now, 'down' still finds what it started.
        self._save(running)
        report(f"{service.title}: starting (log: {log})")
        return _Start(service, process)

    def _wait(self, starts: list[_Start], running: dict[str, ManagedProcess], report: Report, info: StackInfo) -> None:
        next_word_s = 10.0
        while starts:
            for start in list(starts):
                # Asked first: a process may end between its answer and the question whether it lives.
                alive = start.process.is_alive()
                if not alive:
                    raise _died(start)
                if not start.service.is_ready():
                    continue
                if start.service.name == "tiled":
                    make_containers(info, self._settings)
                starts.remove(start)
                running[start.service.name] = start.process.model_copy(update={"ready": True})
                self._save(running)
                report(f"{start.service.title}: ready ({time.monotonic() - start.since:.1f} s)")
            waited_s = max((time.monotonic() - start.since for start in starts), default=0.0)
            if waited_s > START_TIMEOUT_S:
                raise _too_slow(starts[0])
            if waited_s > next_word_s:
                report(f"Waiting for {', '.join(start.service.title for start in starts)} ({waited_s:.0f} s)")
                next_word_s += 10
            time.sleep(0.1)

    def _save(self, processes: dict[str, ManagedProcess]) -> None:
        StackState(processes=processes).save(self._paths.state)

    # Stopping.

    def down(self, report: Report = _silent) -> bool:
        """Stop what `up` started, and nothing else; return whether there was anything to stop.

        Flow runs under way get 15 s to finish; those that do not are stopped and marked as crashed.
        """
        if not self._paths.state.exists():
            report("No stack is running.")
            return False
        with exclusive(self._paths.lock, START_TIMEOUT_S):
            known = StackState.load(self._paths.state).processes
            alive = {name: one for name, one in known.items() if one.is_alive()}
            if not alive:
                report("No stack is running.")
            if "worker" in alive and "prefect" in alive:
                self._finish_flow_runs(alive, report)
            for names in (("worker",), _SERVERS):
                stop_processes([known[name] for name in names if name in known], timeout_s=STOP_TIMEOUT_S)
                for name in names:
                    if name in alive:
                        report(f"{name}: stopped")
            self._paths.state.unlink(missing_ok=True)
        return bool(alive)

    def _finish_flow_runs(self, alive: dict[str, ManagedProcess], report: Report) -> None:
        from bluesky_prefect.stack.drain import drain

        api_url = stack_info(
            self._settings, tiled_port=0, prefect_port=alive["prefect"].port or 0, key=""
        ).prefect_api_url
        try:
            drain(
                api_url,
                self._settings.work_pool,
                stop_worker=lambda: stop_processes([alive["worker"]], timeout_s=STOP_TIMEOUT_S),
                timeout_s=FLOW_RUNS_TIMEOUT_S,
                report=report,
            )
        except StackError as error:
            report(f"Cannot ask Prefect for flow runs under way: {error}")


def _died(start: _Start) -> StackError:
    return StackError(
        f"The {start.service.title} ended while it was starting. The last lines of {start.process.log}:\n"
        f"{start.process.log_tail()}"
    )


def _too_slow(start: _Start) -> StackError:
    return StackError(
        f"The {start.service.title} was not ready after {START_TIMEOUT_S:.0f} s. "
        f"The last lines of {start.process.log}:\n{start.process.log_tail()}"
    )


def _require_extra() -> None:
    missing = [name for name in ("tiled", "uvicorn", "duckdb", "bluesky_tiled_plugins") if find_spec(name) is None]
    if missing:
        raise StackError(
            f"The local stack needs {', '.join(missing)}, which are not installed. "
            'Install them with: pip install "bluesky-prefect[local]"'
        )
