"""Faults, one after the other, in an order that a seed decides; and what became of the runs under each."""

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import psutil

from tests.chaos.accounts import Verdict, audit
from tests.chaos.beamline import Beamline
from tests.chaos.fault import FAULTS, Fault

_PATIENCE_S = 180.0
_HEAL_AFTER_S = 60.0
_HEAL_EVERY_S = 5.0
_LOOK_EVERY_S = 0.5


@dataclass
class Injection:
    """One fault, once.

    Attributes
    ----------
    fault : Fault
        Which.
    began, mended : float
        When, in seconds since the epoch.
    at_risk : set of str
        The runs that began or stopped between the two.
    trouble : str
        Why it could not be injected as it should be, if so.
    recovered_s : float or None
        From the mending until Tiled had each of them, and those that stopped were processed, in seconds; None if that
        did not happen in time.
    """

    fault: Fault
    began: float
    mended: float = 0.0
    at_risk: set[str] = field(default_factory=set)
    trouble: str = ""
    recovered_s: float | None = None


@dataclass
class Outcome:
    """What a campaign found."""

    injections: list[Injection]
    verdict: Verdict

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, duplicated or changed, and every fault was one."""
        return self.verdict.sound and not any(injection.trouble for injection in self.injections)


class Campaign:
    """A seeded series of faults.

    Parameters
    ----------
    beamline : Beamline
        What is broken and repaired.
    faults : sequence of str
        Names of the faults to inject.
    seed : int
        Of their order, of the number of scans, and of the moments.
    report : callable
        Is told in one line what happens.
    """

    def __init__(self, beamline: Beamline, faults: Sequence[str], seed: int, report: Callable[[str], None]) -> None:
        self._beamline = beamline
        self._faults = [FAULTS[name] for name in faults]
        self._seed = seed
        self._report = report

    def run(self, runs: int, most_each: int | None = None, *, one_by_one: bool = True) -> Outcome:
        """Inject every fault once, and all of them again until `runs` runs have stopped; count at the end.

        Parameters
        ----------
        runs : int
            How many runs have to stop.
        most_each : int, optional
            Most scans of one injection.
        one_by_one : bool
            Wait until all is well again before the next fault; else faults meet the runs of those before them.
        """
        injections: list[Injection] = []
        turn = 0
        while turn == 0 or len(self._beamline.ledger.seen()) < runs:
            order = list(self._faults)
            Random(f"{self._seed}/{turn}").shuffle(order)
            for one in order:
                if turn and len(self._beamline.ledger.seen()) >= runs:
                    break
                chance = Random(f"{self._seed}/{turn}/{one.name}")
                scans = chance.randint(*one.runs)
                injections.append(self._inject(one, chance, min(scans, most_each or scans)))
                if one_by_one:
                    self._recover(injections[-1])
            turn += 1
        for injection in [] if one_by_one else injections:
            self._recover(injection)
        self._report("Counting")
        return Outcome(injections, audit(self._beamline))

    def _inject(self, one: Fault, chance: Random, scans: int) -> Injection:
        before = self._known()
        injection = Injection(one, began=time.time())
        try:
            one.inject(self._beamline, chance, scans)
        # What the fault waits for did not come, or what it strikes has ended by itself; the others go on.
        except (AssertionError, psutil.NoSuchProcess) as error:
            injection.trouble = f"{error}"
            self._report(f"{one.title}: not injected as it should be: {error}")
        self._beamline.repair()
        injection.mended = time.time()
        injection.at_risk = self._known() - before
        self._report(f"{one.title}: {len(injection.at_risk)} runs in {injection.mended - injection.began:.1f} s")
        return injection

    def _recover(self, injection: Injection) -> None:
        """Wait until all runs of an injection are in Tiled and processed, healing what crashed."""
        looked = time.monotonic()
        # What crashes although the fault is none that flow runs crash of is healed too, and then recovers late.
        heal_at = looked + (0.0 if injection.fault.heals else _HEAL_AFTER_S)
        while missing := self._missing(injection):
            now = time.monotonic()
            if now - looked > _PATIENCE_S:
                self._report(f"{injection.fault.title}: NOT recovered: {', '.join(sorted(missing))}")
                return
            if now >= heal_at:
                self._beamline.heal(time.time() - injection.began)
                heal_at = time.monotonic() + _HEAL_EVERY_S
            time.sleep(_LOOK_EVERY_S)
        injection.recovered_s = time.time() - injection.mended
        so_far = len(self._beamline.ledger.seen())
        self._report(f"{injection.fault.title}: recovered in {injection.recovered_s:.1f} s ({so_far} runs so far)")

    def _missing(self, injection: Injection) -> set[str]:
        since = datetime.datetime.fromtimestamp(injection.began, datetime.UTC)
        to_process = self._beamline.ledger.promised() - set(self._beamline.prefect.completed(since))
        undelivered = self._beamline.journals.undelivered_runs()
        return injection.at_risk & (to_process | undelivered) - self._beamline.damaged

    def _known(self) -> set[str]:
        return self._beamline.ledger.seen() | self._beamline.emissions.begun()
