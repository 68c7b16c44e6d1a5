"""Progress of a flow run, shown in Prefect's UI if it takes long enough for somebody to look."""

import asyncio
from contextlib import suppress
from typing import Self
from uuid import UUID

from prefect.artifacts import ProgressArtifact, aupdate_progress_artifact

from bluesky_prefect.flows.common._artifacts import publish, publish_artifact

AFTER_S = 2.0
EVERY_S = 1.0


class Progress:
    """A progress artifact of the flow run that it is used in, made once that has taken a while.

    An asynchronous context manager. Whoever works, in whatever thread, sets `percent`. What ends within `after_s` has
    no artifact; it is brought up to date each `every_s` seconds.
    """

    def __init__(self, key: str, *, after_s: float = AFTER_S, every_s: float = EVERY_S) -> None:
        self.percent = 0.0
        self._key = key
        self._after_s = after_s
        self._every_s = every_s
        self._artifact: UUID | None = None
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._show())
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._ended.set()
        await self._watch
        if error is None and self._artifact is not None:
            self.percent = 100.0
            await self._write()

    async def _show(self) -> None:
        await self._wait(self._after_s)
        shown_percent = -1.0
        while not self._ended.is_set():
            if self.percent != shown_percent:
                shown_percent = self.percent
                await self._write()
            await self._wait(self._every_s)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)

    async def _write(self) -> None:
        percent = min(max(self.percent, 0.0), 100.0)
        if self._artifact is None:
            self._artifact = await publish(ProgressArtifact(progress=percent, key=self._key))
        else:
            await publish_artifact(aupdate_progress_artifact(self._artifact, percent), self._key)
