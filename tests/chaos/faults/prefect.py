"""Faults of the Prefect server, and of the way to it."""

import resource
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import Inject, fault
from tests.services.fault_proxy import Mode
from tests.services.prefect_process import wait_until


def _way(mode: Mode) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        before = chance.randint(0, runs // 2)
        acquisition = beamline.acquisition
        acquisition.count(before)
        struck = beamline.prefect_proxy.struck
        beamline.prefect_proxy.mode = mode
        acquisition.count(runs - before)
        wait_until(lambda: mode == "refuse" or beamline.prefect_proxy.struck > struck, timeout_s=150)
        beamline.prefect_proxy.mode = "pass"

    return inject


fault("prefect-refuses", "Prefect refuses connections")(_way("refuse"))
fault("prefect-500", "Prefect answers 500")(_way("500"))
fault("prefect-503", "Prefect answers 503")(_way("503"))
fault("prefect-429", "Prefect answers 429")(_way("429"))
fault("prefect-slow", "Prefect takes 2 s an answer", runs=(8, 15))(_way("slow"))
fault("prefect-black-hole", "Prefect accepts, never answers (on the way)")(_way("black-hole"))
fault("prefect-loses-answers", "Prefect creates flow runs, its answers are lost")(_way("lose-answer"))


@fault("one-submission-500", "one submission is answered 500, 502 or 504")
def one_submission(beamline: Beamline, chance: Random, runs: int) -> None:
    acquisition, proxy = beamline.acquisition, beamline.prefect_proxy
    acquisition.sent_all()
    proxy.victim, proxy.victim_answer = None, chance.choice(["500", "502", "504"])
    try:
        acquisition.count(runs)
        wait_until(lambda: proxy.victim and acquisition.waiting() == 1, timeout_s=20)
    finally:
        proxy.victim_answer = None


@fault("backlog", "a backlog after an outage", runs=(100, 150))
def backlog(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.prefect_proxy.mode = "refuse"
    beamline.acquisition.count(runs)
    beamline.prefect_proxy.mode = "pass"


@fault("prefect-stopped", "Prefect server stopped (SIGSTOP)")
def stopped(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle(), beamline.stopped("prefect"):
        beamline.acquisition.count(runs)


@fault("prefect-killed", "Prefect server killed")
def killed(beamline: Beamline, chance: Random, runs: int) -> None:
    before = chance.randint(0, runs // 2)
    with beamline.idle():
        beamline.acquisition.count(before)
        beamline.kill("prefect")
        beamline.acquisition.count(runs - before)
        beamline.start("prefect")


@fault("prefect-killed-busy", "Prefect server killed under flow runs", heals=True, runs=(8, 15))
def killed_under_flow_runs(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.count(runs)
    wait_until(beamline.prefect.under_way)
    beamline.kill("prefect")
    beamline.start("prefect")


@fault("prefect-disk-full", "no room for Prefect's database", sqlite=True)
def disk_full(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        pid = beamline.pid("prefect")
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            beamline.acquisition.count(runs)
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@fault("prefect-restored", "Prefect restarted with an older database", heals=True, runs=(8, 20), sqlite=True)
def restored(beamline: Beamline, chance: Random, runs: int) -> None:
    backup = beamline.copy_prefect_database()
    acquisition = beamline.acquisition
    acquisition.count(runs)
    acquisition.sent_all()
    with beamline.idle():
        beamline.kill("prefect")
        beamline.restore_prefect_database(backup)
        beamline.start("prefect")
