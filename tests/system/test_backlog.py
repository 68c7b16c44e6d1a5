"""An outage has left many runs in the outbox; Prefect is back, and scans go on."""

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from bluesky_prefect import Outbox
from bluesky_prefect.core import Submission, submission_key
from tests.services.prefect_process import wait_until
from tests.services.prefect_stand_in import PrefectStandIn
from tests.system.session import Acquisition

DEPLOYMENT = "my-workflow/local"
BACKLOG = 400
# All of it together would show: 20 MB.
METADATA = {"note": "x" * 50_000}
HELD_AFTER = 40


@pytest.fixture
def prefect():
    """Stand in for Prefect's API: it stops answering after a few flow runs, until the test lets it go on."""
    stand_in = PrefectStandIn()
    stand_in.go_on = threading.Event()
    stand_in.before_create = lambda: len(stand_in.created) < HELD_AFTER or stand_in.go_on.wait(30)
    with closing(stand_in.start()):
        yield stand_in
        stand_in.go_on.set()


@pytest.fixture
def acquisition(tmp_path, prefect):
    outbox = Outbox(tmp_path / "state" / "outbox.sqlite")
    for number in range(BACKLOG):
        uid = f"old-{number}"
        outbox.put(Submission(submission_key(uid, DEPLOYMENT), DEPLOYMENT, DEPLOYMENT, uid, METADATA))
    outbox.close()
    acquisition = Acquisition(tmp_path / "state", {"PREFECT_API_URL": prefect.url}, DEPLOYMENT)
    yield acquisition
    acquisition.kill()


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_backlog_is_sent_once_in_flat_memory_and_delays_no_fresh_run(acquisition, prefect):
    wait_until(lambda: len(prefect.created) == HELD_AFTER)
    before_mb = resident_mb(acquisition.process.pid)
    [fresh] = acquisition.count(1)
    prefect.go_on.set()
    wait_until(lambda: acquisition.outbox_counts() == (0, BACKLOG + 1, 0))
    order = [key.partition(":")[0] for key in prefect.created]
    # One was on its way, then one of the backlog and the newest take turns.
    assert order.index(fresh) <= HELD_AFTER + 2
    assert sorted(order) == sorted([fresh, *(f"old-{number}" for number in range(BACKLOG))])
    assert resident_mb(acquisition.process.pid) - before_mb < 10
