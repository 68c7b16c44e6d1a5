"""Starting services together, and waiting until each of them works."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bluesky_prefect.core import StackError
from bluesky_prefect.stack._info import StackPaths, StackState
from bluesky_prefect.stack._process import ManagedProcess, start_process
from bluesky_prefect.stack._service import Service

Report = Callable[[str], None]

# A first start compiles a few thousand modules and makes two databases: a minute on a slow disk.
START_TIMEOUT_S = 180.0
_NEXT_WORD_S = 10.0


@dataclass
class _Start:
    service: Service
    process: ManagedProcess
    since: float = field(default_factory=time.monotonic)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.since


class Startup:
    """Services on their way up.

    They start all at once, since each spends seconds on imports; what needs another one waits for it by itself. Their
    processes are added to those that run, by service name, and the state file follows at once: whoever comes later
    finds them also if this process is killed. `report` is told in one line what happens.
    """

    def __init__(self, paths: StackPaths, running: dict[str, ManagedProcess], report: Report) -> None:
        self._paths = paths
        self._running = running
        self._report = report
        self._starts: list[_Start] = []

    def start(self, service: Service) -> None:
        """Start the process of a service."""
        service.prepare()
        log = self._paths.logs / f"{service.name}.log"
        process = start_process(
            service.command(),
            service.environment(),
            directory=self._paths.root,
            log=log,
            port=service.port,
            umask=service.umask,
            niceness=service.niceness,
        )
        self._remember(service, process)
        self._report(f"{service.title}: starting (log: {log})")
        self._starts.append(_Start(service, process))

    def wait(self, on_ready: Callable[[Service], None]) -> None:
        """Return when all services work; `on_ready` is called once for each, before it counts as working.

        Raises `StackError` if a process ends, or takes too long; it holds the last lines of its log.
        """
        next_word_s = _NEXT_WORD_S
        while self._starts:
            for start in list(self._starts):
                self._look_at(start, on_ready)
            slowest = max((start.age_s for start in self._starts), default=0.0)
            if slowest > next_word_s:
                titles = ", ".join(start.service.title for start in self._starts)
                self._report(f"{titles}: still starting ({slowest:.0f} s)")
                next_word_s += _NEXT_WORD_S
            time.sleep(0.1)

    def _look_at(self, start: _Start, on_ready: Callable[[Service], None]) -> None:
        if not start.process.is_alive():
            raise _failed(start, "ended while it was starting")
        if start.service.is_ready():
            on_ready(start.service)
            self._starts.remove(start)
            self._remember(start.service, start.process.model_copy(update={"ready": True}))
            self._report(f"{start.service.title}: ready ({start.age_s:.1f} s)")
        elif start.age_s > START_TIMEOUT_S:
            raise _failed(start, f"was not ready after {START_TIMEOUT_S:.0f} s")

    def _remember(self, service: Service, process: ManagedProcess) -> None:
        self._running[service.name] = process
        StackState.load(self._paths.state).with_processes(self._running).save(self._paths.state)


def _failed(start: _Start, how: str) -> StackError:
    return StackError(
        f"The {start.service.title} {how}. The last lines of {start.process.log}:\n{start.process.log_tail()}"
    )
