"""Faults of the Tiled server, and of the way to it."""

from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.prefect_process import wait_until


@fault("tiled-killed-at-stop", "Tiled down at the stop", heals=True, runs=(3, 6))
def down_at_the_stop(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    beamline.kill("tiled")
    beamline.acquisition.finish()
    beamline.start("tiled")


@fault("tiled-killed-at-read", "Tiled down while flows read", heals=True, runs=(3, 6))
def down_while_flows_read(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        beamline.acquisition.count(runs)
        beamline.acquisition.sent_all()
        beamline.kill("tiled")
    failed = len(list(beamline.prefect.flow_runs("FAILED")))
    wait_until(lambda: len(list(beamline.prefect.flow_runs("FAILED"))) > failed)
    beamline.start("tiled")


@fault("tiled-slow", "Tiled takes 2 s an answer", heals=True, runs=(1, 2))
def slow(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.tiled_proxy.mode = beamline.courier_proxy.mode = "slow"
    beamline.acquisition.count(runs)
    beamline.acquisition.sent_all()
    wait_until(lambda: beamline.prefect.under_way() == 0)
    beamline.tiled_proxy.mode = beamline.courier_proxy.mode = "pass"
