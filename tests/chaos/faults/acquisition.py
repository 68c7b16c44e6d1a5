"""Faults of the acquisition process: it is killed, doubled, stopped, and its clock jumps."""

import signal
import time
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import Inject, fault
from tests.chaos.kill_points import IN_FORWARDER, IN_SESSION
from tests.services.prefect_process import wait_until

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S
# About what a scan takes, for moments that fall while the scans go on.
_SCAN_S = 0.1


def random_moment(chance: Random, runs: int) -> None:
    """Let some of the time pass that so many scans take."""
    # No event to wait for: that nobody chose the moment is the point.
    time.sleep(chance.uniform(0, runs * _SCAN_S))


@fault("killed-anywhere", "acquisition killed at a random moment")
def killed_anywhere(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    random_moment(chance, runs)
    beamline.acquisition.kill()
    beamline.acquisition.count(1)


def _killed_at(point: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        acquisition = beamline.acquisition
        before = beamline.emissions.begun()
        acquisition.say(f"kill {point} {chance.randint(1, runs)}")
        acquisition.count(runs)
        acquisition.died()
        beamline.acquisition.count(1)
        # Where the start document was cut there is no run to be delivered; somebody is told of the file.
        begun = beamline.emissions.begun() - before
        beamline.damaged |= {uid for uid in begun if not beamline.emissions.of(uid).recorded}

    return inject


for _point, _moment in IN_SESSION.items():
    fault(f"killed-{_point}", f"acquisition killed {_moment}")(_killed_at(_point))


@fault("killed-in-a-run", "acquisition killed in the middle of a run", runs=(2, 4))
def killed_in_a_run(beamline: Beamline, chance: Random, runs: int) -> None:
    for _ in range(runs - 1):
        before = beamline.emissions.begun()
        beamline.acquisition.start_long(200)
        wait_until(lambda: beamline.emissions.begun() - before)  # noqa: B023 - used at once
        random_moment(chance, 30)
        beamline.acquisition.kill()
    beamline.acquisition.count(1)


def _without_courier(beamline: Beamline, runs: int) -> None:
    """Have a backlog that Tiled has and Prefect does not, and no courier: sessions send it by themselves then."""
    beamline.prefect_proxy.mode = "refuse"
    beamline.acquisition.count(runs)
    beamline.delivered_all()
    beamline.courier.kill()


def _killed_as_forwarder(point: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        _without_courier(beamline, runs)
        beamline.acquisition.say(f"kill {point} {chance.randint(1, runs)}")
        beamline.prefect_proxy.mode = "pass"
        beamline.acquisition.died()
        beamline.acquisition.sent_all()

    return inject


for _point, _moment in IN_FORWARDER.items():
    fault(f"killed-{_point}", f"acquisition without a courier killed {_moment}")(_killed_as_forwarder(_point))


@fault("two-acquisitions", "two acquisitions on one outbox")
def two_acquisitions(beamline: Beamline, chance: Random, runs: int) -> None:
    one, two = beamline.acquisition, beamline.another_acquisition()
    one.start(runs // 2)
    two.count(runs - runs // 2)
    one.finish()
    two.end()


@fault("second-session", "second session killed beside a live one")
def second_session(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    second = beamline.another_acquisition()
    random_moment(chance, runs)
    second.kill()
    beamline.acquisition.finish()


@fault("second-forwarder", "second forwarder on a live one, without a courier")
def second_forwarder(beamline: Beamline, chance: Random, runs: int) -> None:
    _without_courier(beamline, runs)
    second = beamline.another_acquisition()
    beamline.prefect_proxy.mode = "pass"
    random_moment(chance, runs)
    second.kill()  # at a random moment too: it may hold a lease
    beamline.acquisition.sent_all()


@fault("stopped-over-lease", "acquisition without a courier stopped, its lease taken over")
def stopped_over_its_lease(beamline: Beamline, chance: Random, runs: int) -> None:
    stopped = beamline.acquisition
    _without_courier(beamline, runs)
    other = beamline.another_acquisition()
    beamline.prefect_proxy.mode = "pass"
    random_moment(chance, runs)
    stopped.send_signal(signal.SIGSTOP)
    try:
        # It may have been stopped inside a transaction: then nobody can write, and the lease is not to be had.
        wait_until(lambda: other.waiting() == 0, timeout_s=10)
    except AssertionError:
        pass
    finally:
        stopped.send_signal(signal.SIGCONT)
    other.sent_all()
    other.end()


def _jump(offset_s: float) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        acquisition = beamline.acquisition
        # What waits at that moment has a time to be tried again at, and perhaps a lease.
        beamline.prefect_proxy.mode = "503"
        acquisition.count(runs // 2)
        acquisition.say(f"clock {offset_s}")
        beamline.clocks["courier"].set_off(int(offset_s))
        acquisition.count(runs - runs // 2)
        beamline.prefect_proxy.mode = "pass"
        acquisition.sent_all()
        acquisition.say("clock 0")
        beamline.clocks["courier"].set_off(0)

    return inject


fault("clock-back", "clock back an hour")(_jump(-_HOUR_S))
fault("clock-forward", "clock forward a day")(_jump(_DAY_S))
