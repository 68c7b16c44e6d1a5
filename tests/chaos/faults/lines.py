"""Faults of the lines between hosts: slow, with connections that hang or are reset, and answers that are lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.bad_line import BadLine
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import wait_until

# More scans than a line needs to lose something.
_MORE = 20


@contextmanager
def _bad(proxy: FaultProxy, chance: Random) -> Iterator[BadLine]:
    proxy.line = line = BadLine(hangs=0.02, resets=0.1, loses_answers=0.15, seed=chance.randrange(1000))
    yield line
    proxy.line = None


def _scan_until_lost(beamline: Beamline, line: BadLine, runs: int, arrived: Callable[[], None]) -> None:
    """Do scans, wait for what is asked of the line on their account, and go on until it has lost something."""
    for scans in [runs] + [1] * _MORE:
        beamline.acquisition.count(scans)
        arrived()
        if line.met["answer lost"] and line.met["is reset"]:
            return
    raise AssertionError(f"the line has lost nothing: {line.met}")


@fault("line-to-prefect", "slow and lossy line to Prefect", runs=(8, 15))
def to_prefect(beamline: Beamline, chance: Random, runs: int) -> None:
    with _bad(beamline.prefect_proxy, chance) as line:
        _scan_until_lost(beamline, line, runs, beamline.acquisition.sent_all)


@fault("line-to-tiled", "slow and lossy line from the courier to Tiled", runs=(3, 6))
def to_tiled(beamline: Beamline, chance: Random, runs: int) -> None:
    with _bad(beamline.courier_proxy, chance) as line:
        _scan_until_lost(beamline, line, runs, beamline.delivered_all)


@fault("line-of-flows", "slow and lossy line from flows to Tiled", heals=True, runs=(2, 4))
def of_flows(beamline: Beamline, chance: Random, runs: int) -> None:
    def processed() -> None:
        beamline.acquisition.sent_all()
        wait_until(lambda: not list(beamline.prefect.flow_runs("SCHEDULED", "PENDING", "RUNNING")), timeout_s=120)

    with _bad(beamline.tiled_proxy, chance) as line:
        _scan_until_lost(beamline, line, runs, processed)
