"""Faults of the lines between hosts: slow, with connections that hang or are reset, and answers that are lost."""

from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.bad_line import BadLine
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import wait_until


def _make_bad(proxy: FaultProxy, chance: Random) -> BadLine:
    proxy.line = BadLine(hangs=0.02, resets=0.1, loses_answers=0.15, seed=chance.randrange(1000))
    return proxy.line


@fault("line-to-prefect", "slow and lossy line to Prefect", runs=(8, 15))
def to_prefect(beamline: Beamline, chance: Random, runs: int) -> None:
    line = _make_bad(beamline.prefect_proxy, chance)
    beamline.acquisition.count(runs)
    wait_until(lambda: line.met["answer lost"], timeout_s=60)
    beamline.acquisition.sent_all()
    beamline.prefect_proxy.line = None


@fault("line-to-tiled", "slow and lossy line from the courier to Tiled", runs=(3, 6))
def to_tiled(beamline: Beamline, chance: Random, runs: int) -> None:
    line = _make_bad(beamline.courier_proxy, chance)
    beamline.acquisition.count(runs)
    wait_until(lambda: line.met["answer lost"] > 1 and line.met["is reset"] > 1, timeout_s=60)
    beamline.delivered_all()
    beamline.courier_proxy.line = None


@fault("line-of-flows", "slow and lossy line from flows to Tiled", heals=True, runs=(2, 4))
def of_flows(beamline: Beamline, chance: Random, runs: int) -> None:
    line = _make_bad(beamline.tiled_proxy, chance)
    beamline.acquisition.count(runs)
    wait_until(lambda: line.met["answer lost"] > 1, timeout_s=60)
    wait_until(lambda: beamline.prefect.under_way() == 0)
    beamline.tiled_proxy.line = None
