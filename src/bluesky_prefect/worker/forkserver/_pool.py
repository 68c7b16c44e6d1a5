"""The pool of fork servers that a worker's flow runs come from."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

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
        # The last one forks, or imports; those before it wait for their last child.
        self._servers: list[ForkServerHandle] = []
        self._lock = asyncio.Lock()
        # Whether the last one could not import all of its modules.
        self._incomplete = False

    @property
    def pid(self) -> int | None:
        """The process id of the fork server, if there is one."""
        return self._servers[-1].pid if self._servers else None

    async def preload(self, modules: Sequence[str]) -> None:
        """Have a fork server with these modules; one with others forks no more."""
        if list(modules) != self._modules:
            self._modules = list(modules)
            for server in self._servers:
                server.retire()
        with contextlib.suppress(ForkServerGone, ForkFailed):
            await self._current()

    async def complete(self) -> None:
        """Have a fork server with the modules that could not be imported before, if there were any."""
        if self._incomplete:
            self._servers[-1].retire()
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
        waits, attempts = iter(_WAITS_S), 0
        while True:
            try:
                return await (await self._current()).fork()
            except ForkServerGone:
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise
            except ForkFailed as error:
                if (wait_s := next(waits, None)) is None:
                    raise ForkFailed(
                        f"The system refuses another process ({error}). Look at its memory and at the limits of "
                        "processes ('ulimit -u', pids.max of the cgroup), or lower the worker's --limit."
                    ) from error
                logger.warning("No process for a flow run now, trying again in %g s: %s", wait_s, error)
                await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """End all fork servers."""
        for server in self._servers:
            await server.close()

    async def _current(self) -> ForkServerHandle:
        async with self._lock:
            while not self._servers or self._servers[-1].retired:
                self._servers = [server for server in self._servers if not server.ended]
                await self._start()
            return self._servers[-1]

    async def _start(self) -> None:
        """Start a fork server and wait until it has imported its modules; one that must not fork is ended again."""
        modules = [module for module in self._modules if module not in self._excluded]
        server = ForkServerHandle(modules, self.environment)
        self._servers.append(server)
        warning = asyncio.get_running_loop().call_later(
            _LONG_S,
            logger.warning,
            "Fork server %s is still importing, and flow runs wait for it. If one of these modules hangs, take it out "
            "of the work pool's variable 'preload': %s",
            server.pid,
            ", ".join(modules),
        )
        try:
            outcome = await server.ready()
        except BaseException:
            await server.close()
            raise
        finally:
            warning.cancel()
        if threaded := outcome["threaded"]:
            logger.warning("Not preloading %s: importing it starts a thread, which forbids forking.", threaded)
            self._excluded.add(threaded)
            await server.close()
            return
        self._incomplete = bool(outcome["failed"] or outcome["missing"])
        for module, reason in outcome["failed"].items():
            logger.warning("Not preloading %s: %s", module, reason)
        logger.info(
            "Fork server %s has imported its modules in %.1f s; not installed: %s",
            server.pid,
            outcome["took_s"],
            ", ".join(outcome["missing"]) or "none",
        )
