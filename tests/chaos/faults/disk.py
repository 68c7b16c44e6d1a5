"""Faults of the disk: full (a limit on the size of files) and read-only (permissions, which bind root here too)."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.prefect_process import wait_until

# Less than one page of SQLite, or than a picture.
_NO_ROOM = 2000


@contextmanager
def _read_only(paths: Iterable[Path]) -> Iterator[None]:
    modes = {}
    for path in paths:
        with suppress(FileNotFoundError):  # the courier has moved it
            modes[path] = path.stat().st_mode
            path.chmod(modes[path] & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            with suppress(FileNotFoundError):
                path.chmod(mode)


@fault("outbox-full", "no room for the outbox")
def outbox_full(beamline: Beamline, chance: Random, runs: int) -> None:
    before = chance.randint(0, runs // 2)
    acquisition = beamline.acquisition
    acquisition.count(before)
    with acquisition.largest_file(_NO_ROOM):
        acquisition.count(runs - before)
    acquisition.saved_all()


@fault("outbox-read-only", "outbox read-only at start")
def outbox_read_only(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.count(1)  # so that there is an outbox
    beamline.acquisition.end()
    with _read_only(beamline.session.glob("outbox.sqlite*")):
        beamline.acquisition.count(runs)
    beamline.acquisition.saved_all()


@fault("state-full", "no room in the state directory")
def state_full(beamline: Beamline, chance: Random, runs: int) -> None:
    """As for the outbox, with Prefect away: nothing can be sent from memory meanwhile."""
    beamline.prefect_proxy.mode = "refuse"
    with beamline.acquisition.largest_file(_NO_ROOM):
        beamline.acquisition.count(runs)
    beamline.acquisition.saved_all()
    beamline.prefect_proxy.mode = "pass"


@fault("state-read-only", "state directory read-only at start")
def state_read_only(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.count(1)
    beamline.acquisition.end()
    beamline.delivered_all()  # or the journals would be moved while they are looked at
    with _read_only([beamline.session, *beamline.session.rglob("*")]):
        beamline.acquisition.count(runs)
    beamline.acquisition.saved_all()


@fault("output-full", "no room for exported files", heals=True, runs=(8, 15))
def output_full(beamline: Beamline, chance: Random, runs: int) -> None:
    with ExitStack() as limits:
        for executor in beamline.executors:
            limits.enter_context(executor.largest_file(_NO_ROOM))
        _scan_until_one_fails(beamline, runs)


@fault("output-read-only", "output directory read-only", heals=True, runs=(8, 15))
def output_read_only(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.exports.mkdir(exist_ok=True)
    with _read_only([beamline.exports, *(path for path in beamline.exports.iterdir() if path.is_dir())]):
        _scan_until_one_fails(beamline, runs)


def _scan_until_one_fails(beamline: Beamline, runs: int) -> None:
    def failed() -> int:
        return len(list(beamline.prefect.flow_runs("FAILED")))

    before = failed()
    beamline.acquisition.count(runs)
    wait_until(lambda: failed() > before)
