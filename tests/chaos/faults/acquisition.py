"""Faults of the acquisition process: it is killed, doubled, stopped, and its clock jumps."""

import signal
import time
from random import Random

from tests.chaos.acquisition import KILL_POINTS
from tests.chaos.beamline import Beamline
from tests.chaos.fault import Inject, fault
from tests.services.prefect_process import wait_until

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
# About what a scan takes, for moments that fall while the scans go on.
_SCAN_S = 0.1


def _random_moment(chance: Random, runs: int) -> None:
    # No event to wait for: that nobody chose the moment is the point.
    time.sleep(chance.uniform(0, runs * _SCAN_S))


@fault("killed-anywhere", "acquisition killed at a random moment")
def killed_anywhere(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    _random_moment(chance, runs)
    beamline.acquisition.kill()
    beamline.acquisition.count(1)


def _killed_at(point: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        acquisition = beamline.acquisition
        acquisition.say(f"kill {point} {chance.randint(1, runs)}")
        acquisition.count(runs)
        acquisition.died()
        beamline.acquisition.count(1)

    return inject


for _point, _moment in KILL_POINTS.items():
    fault(f"killed-{_point}", f"acquisition killed {_moment}")(_killed_at(_point))


@fault("two-acquisitions", "two acquisitions on one outbox")
def two_acquisitions(beamline: Beamline, chance: Random, runs: int) -> None:
    one, two = beamline.acquisition, beamline.another_acquisition()
    one.start(runs // 2)
    two.count(runs - runs // 2)
    one.finish()
    two.end()


@fault("second-forwarder", "second forwarder on a live one")
def second_forwarder(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    second = beamline.another_acquisition()
    _random_moment(chance, runs)
    second.kill()  # at a random moment too: it may hold a lease
    beamline.acquisition.finish()


@fault("stopped-over-lease", "acquisition stopped, its lease taken over")
def stopped_over_its_lease(beamline: Beamline, chance: Random, runs: int) -> None:
    stopped = beamline.acquisition
    stopped.start(runs)
    _random_moment(chance, runs)
    other = beamline.another_acquisition()
    stopped.send_signal(signal.SIGSTOP)
    try:
        # It may have been stopped inside a transaction: then nobody can write, and the lease is not to be had.
        wait_until(lambda: other.waiting() == 0, timeout_s=10)
    except AssertionError:
        pass
    finally:
        stopped.send_signal(signal.SIGCONT)
    stopped.finish()
    other.end()


def _jump(offset_s: float) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        acquisition = beamline.acquisition
        # What waits at that moment has a time to be tried again at, and perhaps a lease.
        beamline.prefect_proxy.mode = "503"
        acquisition.count(runs // 2)
        acquisition.say(f"clock {offset_s}")
        acquisition.count(runs - runs // 2)
        beamline.prefect_proxy.mode = "pass"
        acquisition.sent_all()
        acquisition.say("clock 0")

    return inject


fault("clock-back", "clock back an hour")(_jump(-_HOUR_S))
fault("clock-forward", "clock forward a day")(_jump(_DAY_S))
