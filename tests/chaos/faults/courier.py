"""Faults of the courier: it is killed, stopped and starved, and its way to Tiled is cut."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import psutil

from tests.chaos.beamline import Beamline
from tests.chaos.fault import Inject, fault
from tests.chaos.faults.acquisition import random_moment
from tests.chaos.kill_points import IN_COURIER
from tests.services.fault_proxy import Mode
from tests.services.prefect_process import wait_until

# Less than one page of SQLite.
_NO_ROOM = 2000
_NICEST = 19
_HOGS = 2
# Longer than the lease of a submission, and than anybody's patience for one request.
_LONG_S = 8.0


@fault("courier-killed", "courier killed at random moments")
def killed(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    for _ in range(min(3, 1 + runs // 10)):
        random_moment(chance, 20)
        beamline.courier.kill()
        random_moment(chance, 5)
        _ = beamline.courier
    beamline.acquisition.finish()


def _killed_at(point: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        beamline.courier.kill()
        passes = chance.randint(1, runs) * (3 if point == "before-document" else 1)
        armed = beamline.start_courier(point, passes)
        beamline.acquisition.count(runs)
        armed.died()
        _ = beamline.courier
        beamline.acquisition.count(1)

    return inject


for _point, _moment in IN_COURIER.items():
    fault(f"courier-killed-{_point}", f"courier killed {_moment}")(_killed_at(_point))


@fault("courier-killed-late", "courier killed, Tiled reads its last request later", heals=True, runs=(8, 15))
def killed_with_a_late_request(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    random_moment(chance, runs)
    with beamline.stopped("tiled"):
        random_moment(chance, 10)
        beamline.courier.kill()
        _ = beamline.courier
        random_moment(chance, 10)
    beamline.acquisition.finish()


@fault("courier-stopped", "courier stopped (SIGSTOP) for a while")
def stopped(beamline: Beamline, chance: Random, runs: int) -> None:
    courier = beamline.courier
    beamline.acquisition.start(runs)
    random_moment(chance, runs)
    courier.send_signal(signal.SIGSTOP)
    try:
        beamline.acquisition.finish()
        time.sleep(chance.choice([0.0, _LONG_S]))
    finally:
        courier.send_signal(signal.SIGCONT)


@fault("courier-starved", "courier starved of the processor")
def starved(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.courier.kill()
    courier = beamline.start_courier()  # niceness is not taken back without rights: it is killed at the end
    for thread in psutil.Process(courier.pid).threads():
        os.setpriority(os.PRIO_PROCESS, thread.id, _NICEST)
    with _hogs():
        beamline.acquisition.count(runs)
    courier.kill()


@contextmanager
def _hogs() -> Iterator[None]:
    """Have processes that never rest."""
    with ExitStack() as ended:
        for _ in range(_HOGS):
            hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            ended.callback(hog.wait)
            ended.callback(hog.kill)
        yield


def _let_it_try(chance: Random) -> None:
    # No event to wait for: it may try once, or often, until its circumstances are better.
    time.sleep(chance.choice([chance.uniform(1, 3), _LONG_S]))


@fault("courier-without-files", "courier may open no more files")
def without_files(beamline: Beamline, chance: Random, runs: int) -> None:
    before = chance.randint(0, runs // 2)
    courier = beamline.courier
    beamline.acquisition.count(before)
    with courier.more_files(chance.randint(0, 2)):
        beamline.acquisition.count(runs - before)
        _let_it_try(chance)


@fault("courier-full", "no room for what the courier writes")
def full(beamline: Beamline, chance: Random, runs: int) -> None:
    before = chance.randint(0, runs // 2)
    courier = beamline.courier
    beamline.acquisition.count(before)
    with courier.largest_file(_NO_ROOM):
        beamline.acquisition.count(runs - before)
        _let_it_try(chance)


def _blinded(mode: Mode) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        before = chance.randint(0, runs // 2)
        _ = beamline.courier
        beamline.acquisition.start(before)
        random_moment(chance, before)
        struck = beamline.courier_proxy.struck
        beamline.courier_proxy.mode = mode
        beamline.acquisition.finish()
        beamline.acquisition.count(runs - before)
        wait_until(lambda: mode == "refuse" or beamline.courier_proxy.struck > struck, timeout_s=150)
        _let_it_try(chance)
        beamline.courier_proxy.mode = "pass"

    return inject


fault("courier-refused", "Tiled refuses the courier's connections")(_blinded("refuse"))
fault("courier-500", "Tiled answers the courier 500")(_blinded("500"))
fault("courier-503", "Tiled answers the courier 503")(_blinded("503"))
fault("courier-429", "Tiled answers the courier 429")(_blinded("429"))
fault("courier-slow", "Tiled takes 2 s for an answer to the courier", runs=(8, 15))(_blinded("slow"))
fault("courier-black-hole", "Tiled accepts, never answers the courier", runs=(8, 15))(_blinded("black-hole"))


@fault("courier-loses-answers", "Tiled takes rows, its answers to the courier are lost")
def loses_answers(beamline: Beamline, chance: Random, runs: int) -> None:
    proxy = beamline.courier_proxy
    _ = beamline.courier
    beamline.acquisition.start(runs)
    for _ in range(3):
        random_moment(chance, runs // 4)
        struck = proxy.struck
        proxy.held = "partition=0"  # of a table: what rows are appended to
        wait_until(lambda: proxy.struck > struck, timeout_s=20)  # noqa: B023 - used at once
        proxy.mode = "refuse"  # cuts the connections
        proxy.held = None
        proxy.mode = "pass"
    beamline.acquisition.finish()
