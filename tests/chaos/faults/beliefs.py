"""Faults that mislead reconciliation: files and flow runs that are not what they seem, and clocks that are wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.clocks import MachineClock
from tests.chaos.fault import Inject, fault
from tests.chaos.faults.tiled import down_at_the_stop
from tests.services.prefect_process import wait_until
from tests.services.unsaved_runs import KINDS, write_unsaved_run

_AHEAD_S = 660
_HOUR_S = 3600
# As a facility has it, but that it has no time: a heartbeat comes each 30 s.
_PATIENT = {"STUCK_AFTER_S": "600", "HEARTBEAT_TIMEOUT_S": "100"}
_HASTY = {"HEARTBEAT_TIMEOUT_S": "0.1"}
# So long a flow run has to have been running for its silence to be judged; less than two heartbeats.
_HEARTBEAT_TIMEOUT_S = 40
_PLANTED: set[Path] = set()


@fault("unsaved-runs-refused", "Tiled refuses unsaved runs, others are damaged", heals=True, runs=(3, 6))
def unsaved_runs_refused(beamline: Beamline, chance: Random, runs: int) -> None:
    while _PLANTED:
        _PLANTED.pop().unlink(missing_ok=True)
    for kind in KINDS.keys() - {"good"}:
        _PLANTED.add(write_unsaved_run(beamline.session / "unsaved-runs", kind)[1])
    beamline.courier.kill()
    _ = beamline.courier  # which adopts them
    down_at_the_stop(beamline, chance, runs)
    beamline.delivered_all()
    assert beamline.journals.refused(), "nothing was set aside"


def _scan_and_wait(beamline: Beamline, runs: int) -> list[str]:
    """Do scans; return the flow runs that nobody executes yet."""
    beamline.acquisition.count(runs)
    beamline.acquisition.sent_all()
    return [one["id"] for one in beamline.prefect.flow_runs("SCHEDULED")]


def _pending(worker_lives: bool) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        with beamline.idle():
            if worker_lives:
                beamline.prefect.worker_heartbeat(beamline.settings.work_pool, "slow", interval_s=60)
            taken = chance.choice(_scan_and_wait(beamline, runs))
            beamline.prefect.set_state(taken, "PENDING")
            wait_until(lambda: beamline.prefect.seconds_in_state(taken) > 3)
            beamline.reconcile().wait()
            beamline.execute(taken).process.wait()
            beamline.prefect.worker_heartbeat(beamline.settings.work_pool, "slow", interval_s=1)

    return inject


fault("pending-long", "flow run pending long, its worker lives", heals=True, runs=(2, 4))(_pending(worker_lives=True))
fault("pending-late", "worker gone, a process of it comes up late", heals=True, runs=(2, 4))(
    _pending(worker_lives=False)
)


@fault("completes-at-marking", "flow run completes as it is marked crashed", heals=True, runs=(2, 4))
def completes_at_marking(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        taken = chance.choice(_scan_and_wait(beamline, runs))
        beamline.prefect.set_state(taken, "RUNNING")
        wait_until(lambda: beamline.prefect.seconds_in_state(taken) > 3)
        beamline.reconcile(_HASTY, module="tests.chaos.reconciling").wait()


@contextmanager
def _one_alive(beamline: Beamline, chance: Random, runs: int, clock: MachineClock | None = None) -> Iterator[str]:
    """Have a flow run alive, held up by Tiled: it sends heartbeats."""
    with beamline.idle():
        taken = chance.choice(_scan_and_wait(beamline, runs))
        beamline.prefect.set_state(taken, "PENDING")
        beamline.tiled_proxy.held = "/api/v1/"
        try:
            process = beamline.execute(taken, clock)
            wait_until(lambda: beamline.prefect.heartbeats(taken))
            yield taken
        finally:
            beamline.tiled_proxy.held = None
        process.process.wait()


def _forward(side: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        clock = beamline.clocks[side]
        with _one_alive(beamline, chance, runs):
            clock.set_off(_AHEAD_S)
            try:
                beamline.reconcile(_PATIENT, clock=beamline.clocks["reconcile"]).wait()
            finally:
                clock.set_off(0)
        if side == "prefect":
            # What its services do now and then, they have planned by the former clock: for eleven minutes no worker
            # that is gone would be seen to be.
            beamline.kill("prefect")
            beamline.start("prefect")

    return inject


for _side, _title in {"reconcile": "reconcile's clock", "prefect": "Prefect server's clock"}.items():
    fault(f"{_side}-clock-forward", f"{_title} forward 11 minutes", heals=True, runs=(2, 4))(_forward(_side))


@fault("worker-clock-back", "worker's clock back an hour", heals=True, runs=(2, 4))
def worker_clock_back(beamline: Beamline, chance: Random, runs: int) -> None:
    clock = beamline.clocks["worker"]
    with _one_alive(beamline, chance, runs, clock) as taken:
        clock.set_off(-_HOUR_S)
        wait_until(lambda: beamline.prefect.seconds_in_state(taken) > _HEARTBEAT_TIMEOUT_S + 2, timeout_s=120)
        beamline.reconcile({**_PATIENT, "HEARTBEAT_TIMEOUT_S": str(_HEARTBEAT_TIMEOUT_S)}).wait()
    clock.set_off(0)
