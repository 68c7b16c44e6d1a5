"""The Tiled server, as the flows see it: runs are found in one container, results go to another."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from bluesky_prefect.core import ConfigurationError, RunIncomplete, RunNotFound, one_line, without_secrets
from bluesky_prefect.tiled_api._connect import configured_key, connect, container_at, plain_clients, tiled_errors
from bluesky_prefect.tiled_api._raw_catalog import make_container, make_raw_catalog
from bluesky_prefect.tiled_api._run_data import RunData
from bluesky_prefect.tiled_api._run_lookup import Ref, checked_ref, described_absence, find_run, is_full_uid
from bluesky_prefect.tiled_api._run_reader import read_run

if TYPE_CHECKING:
    from tiled.client.container import Container

    from bluesky_prefect.core import Settings

_FIRST_POLL_S = 0.1
_MAX_POLL_S = 2.0


class Catalog:
    """Runs and results in a Tiled server: those in the containers at the paths `raw` and `processed`.

    To be used in a ``with`` statement, or closed: workers live long. Messages call the server by its name, which must
    hold no secret.
    """

    def __init__(self, root: "Container", *, raw: str, processed: str, name: str) -> None:
        self._root = root
        self._raw_path = raw.strip("/")
        self._processed_path = processed.strip("/")
        self.name = name

    @classmethod
    def connect(cls, settings: "Settings") -> "Catalog":
        """Connect to the Tiled server that the settings name, by address or by profile.

        Raises
        ------
        ConfigurationError
            If the settings name no server, or an unknown profile, or no API key where the server wants one.
        TiledUnavailable
            If the server does not answer, or refuses the API key.
        """
        name = without_secrets(settings.tiled_uri) if settings.tiled_uri else f"profile {settings.tiled_profile}"
        key = configured_key(settings)  # Prefect may be asked for it: its errors are none of Tiled's
        with tiled_errors(name):
            root = connect(settings, key, clients=plain_clients())
        return cls(root, raw=settings.raw_container, processed=settings.processed_container, name=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the server."""
        self._root.context.close()

    @property
    def context(self) -> Any:
        """The connection to the server, as Tiled's client has it."""
        return self._root.context

    @property
    def raw(self) -> "Container":
        """The container of Bluesky runs."""
        return self._container(self._raw_path)

    def at(self, path: str) -> Any:
        """Return what is at a path."""
        return self._container(path)

    def page_of(self, path: str) -> str:
        """Return the address of what is at a path, in Tiled's own web UI; without any key."""
        parts = "/".join(quote(part, safe="") for part in path.split("/"))
        return f"{without_secrets(str(self._root.context.api_uri)).partition('/api/v')[0]}/ui/browse/{parts}"

    def raw_for_writing(self) -> Any:
        """Return the container of Bluesky runs as `RunWriter` wants it; imports its package, for seconds."""
        from tiled.client import from_context

        _ = self.raw  # says what to do if it is not there
        with tiled_errors(self.name):
            return from_context(self._root.context)[tuple(self._raw_path.split("/"))].include_data_sources()

    def make_raw(self) -> bool:
        """Make the container of Bluesky runs, or give it the spec that it lacks; return whether there was a need."""
        with tiled_errors(self.name):
            return make_raw_catalog(self._root, self._raw_path)

    def processed(self) -> "Container":
        """Return the container of results; it is made if it is not there."""
        try:
            return self._container(self._processed_path)
        except ConfigurationError:
            with tiled_errors(self.name):
                make_container(self._root, self._processed_path)
            return self._container(self._processed_path)

    def has_processed(self) -> bool:
        """Tell whether the container of results is there, and make none."""
        try:
            self._container(self._processed_path)
        except ConfigurationError:
            return False
        return True

    def processed_by_uid(self, run_uid: str) -> "list[Container]":
        """Return what was written about a run to the container of results; nothing where there is no container."""
        from tiled.queries import Eq

        try:
            container = self._container(self._processed_path)
        except ConfigurationError:
            return []
        with tiled_errors(self.name):
            return list(container.search(Eq("raw_uid", run_uid)).values())

    def _container(self, path: str) -> "Container":
        with tiled_errors(self.name):
            return container_at(self._root, path, self.name)

    def find(self, ref: Ref) -> "Container":
        """Find a run, whether it has stopped or not; references are those of `finished_run`.

        Raises
        ------
        FlowInputError, RunNotFound
            If `ref` cannot name a run, or there is no such run.
        """
        key = checked_ref(ref)
        raw = self.raw
        with tiled_errors(self.name):
            run = find_run(raw, key)
        if run is None:
            raise self.no_run(ref)
        return run

    def no_run(self, ref: Ref) -> RunNotFound:
        """Return the error that says that no run has such a name."""
        return RunNotFound(f"T{self._place[1:]} has {described_absence(ref)}.")

    async def read_run(self, ref: Ref, *, timeout_s: float) -> RunData:
        """Wait until a run is finished, and read it; parameters and errors are those of `finished_run`."""
        return await asyncio.to_thread(read_run, await self.finished_run(ref, timeout_s=timeout_s), self.name)

    async def finished_run(
        self,
        ref: Ref,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> "Container":
        """Find a run and wait until its stop document is there.

        A coroutine, so that Ctrl-C ends the wait; Tiled is asked in another thread.

        Parameters
        ----------
        ref : int or str
            Scan id, negative index (-1 is the newest run), full or partial uid. Text
            that reads as a number is taken as a number first, then as a partial uid.
        timeout_s : float
            How long to wait, in seconds: for the stop document, and where `ref` is a full uid for the run itself.

        Raises
        ------
        FlowInputError
            If `ref` cannot name a run, or is a scan id that several have.
        RunNotFound
            If there is no such run.
        RunIncomplete
            If the run's stop document does not come in time.
        """
        deadline = clock() + timeout_s
        pause_s = _FIRST_POLL_S
        key: Ref = checked_ref(ref)
        raw = await asyncio.to_thread(lambda: self.raw)
        while True:
            with tiled_errors(self.name):
                run = await asyncio.to_thread(find_run, raw, key)
            if run is not None and run.metadata.get("stop"):
                return run
            if run is not None:
                key = run.item["id"]
            elif not is_full_uid(key):
                raise self.no_run(ref)
            if clock() >= deadline:
                raise self._gave_up(ref, run, timeout_s)
            await sleep(min(pause_s, max(deadline - clock(), 0.0)))
            pause_s = min(pause_s * 2, _MAX_POLL_S)

    def _gave_up(self, ref: Ref, run: "Container | None", timeout_s: float) -> RunNotFound | RunIncomplete:
        if run is None:
            return RunNotFound(
                f"T{self._place[1:]} has {described_absence(ref)}, after {timeout_s:g} s of waiting. Was it written "
                "there?"
            )
        return RunIncomplete(
            f"Run {one_line(run.item['id'])} has no stop document in {self._place} after {timeout_s:g} s: it is still "
            "running, or whatever wrote it died or lost its connection. Wait for it and run the flow again (with a "
            "longer BLUESKY_PREFECT_STOP_TIMEOUT_S if the stop comes late), or write the run again from its documents."
        )

    @property
    def _place(self) -> str:
        return f"the catalog {self._raw_path or '/'!r} of Tiled at {self.name}"
