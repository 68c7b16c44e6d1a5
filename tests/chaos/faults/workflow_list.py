"""Faults of what reconciliation compares with."""

import os
import subprocess
import sys
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.chaos.processes import ROOT
from tests.services.prefect_process import wait_until

# As a facility calls it: on no list that anybody has who was not told of the facility's own.
_WORKFLOW = "facility"


@fault("no-list", "reconcile without its list of workflows", runs=(6, 12))
def no_list(beamline: Beamline, chance: Random, runs: int) -> None:
    acquisition = beamline.another_acquisition(CHAOS_WORKFLOW=_WORKFLOW)
    lost = chance.randint(1, 3)
    before = set(beamline.ledger.seen())
    acquisition.count(runs - lost)
    acquisition.sent_all()
    taken = beamline.ledger.seen() - before
    wait_until(lambda: taken <= set(beamline.prefect.completed()), timeout_s=150)
    _reconcile(beamline)
    with beamline.idle():
        beamline.prefect_proxy.mode = "refuse"
        acquisition.count(lost)
        acquisition.kill()
        _reconcile(beamline)
        beamline.prefect_proxy.mode = "pass"


def _reconcile(beamline: Beamline) -> None:
    """Have two people do what should start nothing, in shells where nobody has named the list."""
    environment = {
        **os.environ,
        **beamline.info.environment(),
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(beamline.session),
        "BLUESKY_PREFECT_SETTLE_S": "0",
    }
    del environment["BLUESKY_PREFECT_WORKFLOWS"]
    before = len(list(beamline.prefect.flow_runs()))
    command = [sys.executable, "-m", "bluesky_prefect", "reconcile", "--submit"]
    with (beamline.root / "logs" / "reconcile.log").open("a") as log:
        people = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) for _ in range(2)]
        codes = [person.wait() for person in people]
    assert codes == [1, 1], f"reconcile without a list ended with {codes}"
    assert len(list(beamline.prefect.flow_runs())) == before, "reconcile without a list started something"
