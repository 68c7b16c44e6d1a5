"""Looking whether the flow runs of a work pool could do anything but fail, before any is taken."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
from prefect.utilities.processutils import sanitize_subprocess_env

from bluesky_prefect.core import one_line
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import ANSWER, Job

logger = logging.getLogger(f"prefect.{__name__}")

Check = tuple[str, Mapping[str, str | None]]
# Tiled's client alone tries for 45 s to reach a server.
_LIMIT_S = 120.0
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


class Readiness:
    """Tells when a worker may take flow runs: once the check of its work pool has nothing against it.

    A worker goes on with them then, whatever happens: what flows do in an outage is theirs to decide. At its start
    it is different: what waits in Prefect is neither failed nor started again, and nobody has waited for its result.

    Parameters
    ----------
    forks : ForkServerPool
        Where the check is called, in a process like that of a flow run.
    check : callable
        Returns what to call, as ``module:name`` or "", and the environment variables of the work pool's jobs.
    on_ready : callable
        Called once it may take flow runs.
    """

    def __init__(
        self, forks: ForkServerPool, check: Callable[[], Awaitable[Check]], on_ready: Callable[[], None]
    ) -> None:
        self._forks = forks
        self._check = check
        self._on_ready = on_ready
        self.is_ready = False

    async def wait(self) -> None:
        """Wait until the check returns nothing; it is called again after growing waits."""
        wait_s, before, told = _FIRST_WAIT_S, "", ""
        while problem := await self._problem():
            # Servers that were started together with the worker have a moment to be there.
            if before and problem != told:
                told = problem
                logger.warning(
                    "Not taking flow runs yet, because they would fail. %s Will keep checking. If this check does not "
                    "apply to this pool, clear its variable 'check'.",
                    problem,
                )
            before = problem
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if told:
            await self._forks.complete()
            logger.warning("Taking flow runs now.")
        self._settle()

    async def look(self) -> None:
        """Look once, and log what is wrong."""
        if problem := await self._problem():
            logger.warning("No flow run is taken, since it could only fail. %s", problem)
        else:
            self._settle()

    def _settle(self) -> None:
        self.is_ready = True
        self._on_ready()

    async def _problem(self) -> str:
        what = "The check of the work pool"
        try:
            check, environment = await self._check()
            if not check:
                return ""
            what = f"The check {check}"
            with anyio.fail_after(_LIMIT_S):
                return await self._answer(check, environment)
        except TimeoutError:
            return f"{what} has not answered within {_LIMIT_S:g} s."
        except Exception as error:  # noqa: BLE001  # it is looked at again
            return f"{what} cannot be called: {one_line(repr(error))}."

    async def _answer(self, check: str, environment: Mapping[str, str | None]) -> str:
        merged = sanitize_subprocess_env({**os.environ, **environment})
        with tempfile.TemporaryDirectory(suffix="prefect", ignore_cleanup_errors=True) as directory:
            child = await self._forks.fork()
            # Silent: its answer is all that there is to say, once.
            await child.run(Job(environment=merged, directory=Path(directory), output=False, check=check))
            return one_line((Path(directory) / ANSWER).read_text())
