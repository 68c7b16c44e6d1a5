"""The acquisition process of a campaign: scans at full speed, and dies where it is told to.

Lines on stdin: ``count N`` does N runs and then prints ``done``, ``plain N`` N runs that start no workflow, ``long N``
one run of N points that takes its time; ``kill POINT N`` kills the process when it passes that point for the N-th time;
``clock S`` sets its clock off by S seconds; ``counts`` prints how much is in the outbox (or ``? ? ?`` if that cannot be
read); ``memory`` prints for how many runs the disk refuses something; ``probe`` emits a run of which only listeners
hear, and that starts nothing, and prints its uid; ``end`` ends as a script does. Without any of these it stands by.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.kill_points import KillPoints

DEPLOYMENT = "my-workflow/local"
# In the start document of a run that is none, and only shows that documents get through.
PROBE = "probe"
# Between the points of a long run.
_POINT_S = 0.05


class Clock:
    """This process's time of day, which may jump. Made before whatever takes hold of `time.time`."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        real = time.time
        time.time = lambda: real() + self.offset_s


class Session:
    """A RunEngine as the profile sets it up, between two notes of the ledger.

    Parameters
    ----------
    ledger : Path
        Directory of the ledger.
    emissions : int
        The pipe that every document is written to.
    images : Path
        Directory of image files.
    """

    def __init__(self, ledger: Path, emissions: int, images: Path) -> None:
        from bluesky import RunEngine

        from bluesky_prefect import PrefectCallback, Workflow
        from bluesky_prefect.core import get_settings
        from bluesky_prefect.journal import RunRecorder
        from bluesky_prefect.sim import make_devices
        from tests.chaos.emissions import Emitter
        from tests.chaos.ledger import Ledger
        from tests.chaos.publishing import consumers

        settings = get_settings()
        self.devices = make_devices(images)
        self.engine = RunEngine(context_managers=[])
        self.callback = PrefectCallback(Workflow(DEPLOYMENT, name=os.environ.get("CHAOS_WORKFLOW", DEPLOYMENT)))
        self.recorder = RunRecorder(settings.journals_path)
        self._promise = Ledger(ledger).recorder("promised")
        self._starts_workflows = True
        self._emitter = emitter = Emitter(emissions)  # the RunEngine keeps no method alive
        self.engine.subscribe(Ledger(ledger).recorder("seen"))
        self.engine.subscribe(emitter.before)
        self.engine.subscribe(self.recorder)
        self.engine.subscribe(emitter.after)
        self._consumers = list(consumers(self.callback))
        for consumer in self._consumers:
            self.engine.subscribe(consumer)
        self.engine.subscribe(self._note_promise)

    def count(self, runs: int) -> None:
        """Do `runs` short scans, one right after the other."""
        for number in range(runs):
            self.engine(self._plan(number))

    def plain(self, runs: int) -> None:
        """Do `runs` short scans that start no workflow."""
        self._starts_workflows = False
        for number in range(runs):
            self.engine(self._plan(number), prefect=False)
        self._starts_workflows = True

    def long(self, points: int) -> None:
        """Do a scan that goes on for a while."""
        from bluesky import plans

        self.engine(plans.count([self.devices.det, self.devices.image_det], points, delay=_POINT_S))

    def counts(self) -> str:
        from bluesky_prefect.core import OutboxError

        try:
            counts = self.callback.outbox.counts()
        except OutboxError:
            return "? ? ?"
        return f"{counts.waiting} {counts.sent} {counts.dead}"

    def memory(self) -> int:
        return self.callback._memory.counts().waiting + len(self.recorder._stopped)

    def probe(self) -> str:
        from event_model import compose_run

        run = compose_run(metadata={PROBE: True})
        for name, doc in (("start", run.start_doc), ("stop", run.compose_stop())):
            for publisher in [one for one in self._consumers if one is not self.callback]:
                publisher(name, doc)
        return run.start_doc["uid"]

    def _plan(self, number: int) -> Iterator[Any]:
        from bluesky import plans, preprocessors

        det, motor = self.devices.det, self.devices.motor
        no_room = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
        kind = number % 4
        if kind == 3 and not no_room:  # or the detector could not write its file, and the scan would fail
            return plans.count([self.devices.image_det, det], 2)
        if kind == 2:
            return preprocessors.baseline_wrapper(plans.count([det], 2), [motor])
        return plans.count([det], 2) if kind else plans.scan([det], motor, -1, 1, 3)

    def _note_promise(self, name: str, doc: dict[str, Any]) -> None:
        if self._starts_workflows:
            self._promise(name, doc)


def main(ledger: Path, emissions: int, images: Path) -> None:
    clock, points = Clock(), KillPoints()
    points.install()
    session = Session(ledger, emissions, images)
    commands: dict[str, Callable[..., None]] = {
        "count": lambda runs: session.count(int(runs)),
        "plain": lambda runs: session.plain(int(runs)),
        "long": lambda points: session.long(int(points)),
        "kill": lambda point, passes: points.arm(point, int(passes)),
        "clock": lambda offset_s: setattr(clock, "offset_s", float(offset_s)),
        "counts": lambda: print(session.counts(), flush=True),
        "memory": lambda: print(session.memory(), flush=True),
        "probe": lambda: print(session.probe(), flush=True),
    }
    print("ready", flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "end":
            return
        commands[word](*arguments)
        if word in ("count", "plain", "long"):
            print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
