"""The acquisition process of a campaign: scans at full speed, and dies where it is told to.

Lines on stdin: ``count N`` does N runs and then prints ``done``; ``kill POINT N`` kills the process when it passes that
point for the N-th time; ``clock S`` sets its clock off by S seconds; ``counts`` prints how much is in the outbox (or
``? ? ?`` if that cannot be read); ``end`` ends as a script does. Without any of these it only forwards.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEPLOYMENT = "my-workflow/local"
KILL_POINTS = {
    "before-commit": "inside stop, before the commit",
    "after-commit": "inside stop, after the commit",
    "before-request": "before Prefect is asked",
    "after-accepted": "when Prefect has accepted, before that is noted",
}


class Clock:
    """This process's time of day, which may jump. Made before whatever takes hold of `time.time`."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        real = time.time
        time.time = lambda: real() + self.offset_s


class KillPoints:
    """Places in the callback and the forwarder where this process kills itself on demand."""

    def __init__(self) -> None:
        self._armed: tuple[str, int] | None = None
        self._putting = threading.local()

    def arm(self, point: str, passes: int) -> None:
        assert point in KILL_POINTS, point
        self._armed = (point, passes)

    def install(self) -> None:
        """Wrap what passes the points, in this process only."""
        from bluesky_prefect.outbox import Outbox
        from bluesky_prefect.outbox._sqlite_file import SQLiteFile
        from bluesky_prefect.prefect_api import PrefectApi

        put, change, create = Outbox.put_all, SQLiteFile.change, PrefectApi.create_flow_run

        def put_and_pass(*arguments: Any, **options: Any) -> Any:
            self._putting.now = True
            try:
                present = put(*arguments, **options)
            finally:
                self._putting.now = False
            self._pass("after-commit")
            return present

        @contextmanager
        def change_and_pass(*arguments: Any, **options: Any) -> Iterator[Any]:
            with change(*arguments, **options) as connection:
                yield connection
                if getattr(self._putting, "now", False):
                    self._pass("before-commit")

        def create_and_pass(*arguments: Any, **options: Any) -> Any:
            self._pass("before-request")
            flow_run = create(*arguments, **options)
            self._pass("after-accepted")
            return flow_run

        Outbox.put_all, SQLiteFile.change = put_and_pass, change_and_pass
        PrefectApi.create_flow_run = create_and_pass

    def _pass(self, point: str) -> None:
        if self._armed is None or self._armed[0] != point:
            return
        self._armed = (point, self._armed[1] - 1)
        if self._armed[1] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Session:
    """A RunEngine as the profile sets it up, between two notes of the ledger.

    Parameters
    ----------
    ledger : Path
        Directory of the ledger.
    """

    def __init__(self, ledger: Path) -> None:
        from bluesky import RunEngine

        from bluesky_prefect import PrefectCallback, Workflow
        from bluesky_prefect.core import get_settings
        from bluesky_prefect.session._recorder import TiledRecorder
        from bluesky_prefect.session._tiled import TiledConnection
        from tests.chaos.ledger import Ledger

        settings = get_settings()
        self.engine = RunEngine(context_managers=[])
        self.callback = PrefectCallback(Workflow(DEPLOYMENT, name=os.environ.get("CHAOS_WORKFLOW", DEPLOYMENT)))
        unsaved = settings.state_directory / "unsaved-runs"
        self.engine.subscribe(Ledger(ledger).recorder("seen"))
        self.engine.subscribe(TiledRecorder(TiledConnection(settings), directory=unsaved, tell=_tell))
        self.engine.subscribe(self.callback)
        self.engine.subscribe(Ledger(ledger).recorder("promised"))

    def count(self, runs: int) -> None:
        """Do `runs` short scans, one right after the other."""
        from bluesky import plans
        from ophyd.sim import det, motor

        for number in range(runs):
            self.engine(plans.count([det], 2) if number % 2 else plans.scan([det], motor, -1, 1, 3))

    def counts(self) -> str:
        from bluesky_prefect.core import OutboxError

        try:
            counts = self.callback.outbox.counts()
        except OutboxError:
            return "? ? ?"
        return f"{counts.waiting} {counts.sent} {counts.dead}"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(ledger: Path) -> None:
    clock, points = Clock(), KillPoints()
    points.install()
    session = Session(ledger)
    commands: dict[str, Callable[..., None]] = {
        "count": lambda runs: session.count(int(runs)),
        "kill": lambda point, passes: points.arm(point, int(passes)),
        "clock": lambda offset_s: setattr(clock, "offset_s", float(offset_s)),
        "counts": lambda: print(session.counts(), flush=True),
    }
    print("ready", flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "end":
            return
        commands[word](*arguments)
        if word == "count":
            print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
