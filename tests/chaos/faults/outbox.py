"""Faults of the outbox: sessions set to another server, and of another version, use the same file."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.prefect_process import wait_until
from tests.services.prefect_stand_in import PrefectStandIn

_NEWER = 99


class _AnotherPrefect(PrefectStandIn):
    """A server that was never meant, and would accept everything."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        threading.Thread(target=self.serve, daemon=True).start()

    def get(self, path: str) -> Any:
        self.asked = True
        return super().get(path)


@fault("other-server", "a session set to another Prefect on a backlog")
def other_server(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.prefect_proxy.mode = "refuse"
    beamline.acquisition.count(runs)
    beamline.acquisition.kill()
    with closing(_AnotherPrefect()) as other:
        session = beamline.another_acquisition(PREFECT_API_URL=other.url)
        # It asks for its deployment some seconds after it has first looked for what it could send.
        wait_until(lambda: other.asked)
        assert session.waiting() >= runs
        session.kill()
        assert not other.created, f"{len(other.created)} runs went to another server"
    beamline.prefect_proxy.mode = "pass"


@fault("older-version", "a session of an older version on a newer outbox, killed")
def older_version(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.count(1)  # so that there is an outbox
    beamline.acquisition.end()
    with _of_a_newer_version(beamline.session / "outbox.sqlite"):
        beamline.prefect_proxy.mode = "refuse"
        beamline.acquisition.count(runs)
        beamline.acquisition.kill()
    beamline.prefect_proxy.mode = "pass"


@contextmanager
def _of_a_newer_version(path: Path) -> Iterator[None]:
    known = _version(path, _NEWER)
    try:
        yield
    finally:
        _version(path, known)


def _version(path: Path, version: int) -> int:
    """Write another version of the format into the file, and return the one before."""
    with closing(sqlite3.connect(path)) as connection:
        [before] = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
    return before
