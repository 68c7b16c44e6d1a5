"""The pool of fork servers that a worker's flow runs come from."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bluesky_prefect.worker.forkserver._child_handle import ChildHandle
from bluesky_prefect.worker.forkserver._handle import ForkFailed, ForkServerGone, ForkServerHandle

logger = logging.getLogger(f"prefect.{__name__}")

# Sooner or later nothing but a bug is behind a fork server that dies each time.
_ATTEMPTS = 5
# Waits for a system that has no memory or process left, in which other flow runs may end: half a minute in all.
_WAITS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# Imports that take longer are told of.
_LONG_S = 30.0


class ForkServerPool:
    """Children from a fork server that is always there, with the modules as they are on disk.

    Parameters
    ----------
    environment : mapping
        What a fork server is started with; flow runs have it too, their own variables apart.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._modules: list[str] = []
        self._excluded: set[str] = set()
        self._server: ForkServerHandle | None = None
        self._starting: ForkServerHandle | None = None
        self._lock = asyncio.Lock()
        self._retired: list[ForkServerHandle] = []

    @property
    def pid(self) -> int | None:
        """The process id of the fork server, if there is one."""
        return self._server and self._server.pid

    async def preload(self, modules: Sequence[str]) -> None:
        """Have a fork server with these modules; one with others forks no more."""
        if self._starting is not None and modules != self._modules:
            # One of its modules may hang; who asked for it gets one with these.
            self._modules = list(modules)
            self._starting.kill()
        async with self._lock:
            if modules != self._modules and self._server is not None:
                self._server.retire()
            self._modules = list(modules)
        with contextlib.suppress(ForkServerGone, ForkFailed):
            await self._current()

    async def fork(self) -> ChildHandle:
        """Return a new child, which waits for its job; where the system refuses a process, try again for a while.

        Raises
        ------
        ForkServerGone
            If fork servers die one after the other.
        ForkFailed
            If the system goes on refusing.
        """
        for wait_s in _WAITS_S:
            try:
                return await self._fork()
            except ForkFailed as error:
                logger.warning("No process for a flow run now, trying again in %g s: %s", wait_s, error)
                await asyncio.sleep(wait_s)
        try:
            return await self._fork()
        except ForkFailed as error:
            raise ForkFailed(
                f"The system refuses another process ({error}). Look at its memory and at the limits of processes "
                "('ulimit -u', pids.max of the cgroup), or lower the worker's --limit."
            ) from error

    async def _fork(self) -> ChildHandle:
        for attempt in range(_ATTEMPTS):
            try:
                return await (await self._current()).fork()
            except ForkServerGone:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError  # not reached

    async def close(self) -> None:
        """End all fork servers."""
        for server in (*self._retired, *filter(None, [self._server])):
            await server.close()

    async def _current(self) -> ForkServerHandle:
        async with self._lock:
            if self._server is not None and self._server.retired:
                self._retired = [server for server in self._retired if not server.ended] + [self._server]
                self._server = None
            if self._server is None:
                self._server = await self._start()
            return self._server

    async def _start(self) -> ForkServerHandle:
        while True:
            modules = [module for module in self._modules if module not in self._excluded]
            server = self._starting = ForkServerHandle(modules, self.environment)
            try:
                outcome = await _ready(server, modules)
            except BaseException:
                await server.close()
                raise
            finally:
                self._starting = None
            threaded = outcome["threaded"]
            if threaded is None:
                break
            logger.warning("Not preloading %s: importing it starts a thread, which forbids forking.", threaded)
            self._excluded.add(threaded)
            await server.close()
        for module, reason in outcome["failed"].items():
            logger.warning("Not preloading %s: %s", module, reason)
        logger.info(
            "Fork server %s has imported its modules in %.1f s; not installed: %s",
            server.pid,
            outcome["took_s"],
            ", ".join(outcome["missing"]) or "none",
        )
        return server


async def _ready(server: ForkServerHandle, modules: Sequence[str]) -> dict[str, Any]:
    while True:
        try:
            return await asyncio.wait_for(server.ready(), _LONG_S)
        except TimeoutError:
            logger.warning(
                "Fork server %s is still importing, and flow runs wait for it. If one of these modules hangs, take it "
                "out of the work pool's variable 'preload': %s",
                server.pid,
                ", ".join(modules),
            )
