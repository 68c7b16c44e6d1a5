"""Times of flow runs, by this machine's clock."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State

from bluesky_prefect.prefect_api import FlowRunTimes, flow_run_times


class Prefect:
    """Has some flow runs, and a clock of its own."""

    def __init__(self, *flow_runs, ahead_s=0.0):
        self._flow_runs = flow_runs
        self._ahead_s = ahead_s
        self.client = SimpleNamespace(read_flow_runs=self.read_flow_runs)

    def now(self):
        return time.time() + self._ahead_s

    def read_flow_runs(self, *, flow_run_filter, limit):
        found = [one for one in self._flow_runs if one.id in flow_run_filter.id.any_]
        assert len(found) <= limit
        return found


def flow_run(state, start=None, end=None):
    start, end = (moment and datetime.fromtimestamp(moment, UTC) for moment in (start, end))
    return FlowRun(id=uuid4(), flow_id=uuid4(), state=State(type=state), start_time=start, end_time=end)


def test_a_flow_run_has_the_times_that_prefect_gives_and_none_that_has_not_come():
    waits, runs, done = flow_run("SCHEDULED"), flow_run("RUNNING", 100.0), flow_run("COMPLETED", 100.0, 104.5)
    others = flow_run("RUNNING", 1.0)
    ids = [str(one.id) for one in (waits, runs, done)]
    assert flow_run_times(Prefect(waits, runs, done, others), [*ids, str(uuid4())]) == {
        ids[0]: FlowRunTimes("SCHEDULED", None, None),
        ids[1]: FlowRunTimes("RUNNING", 100.0, None),
        ids[2]: FlowRunTimes("COMPLETED", 100.0, 104.5),
    }


@pytest.mark.parametrize(("ahead_s", "off_s"), [(3600.0, 3600.0), (-3600.0, -3600.0), (0.9, 0.0)])
def test_a_server_whose_clock_differs_by_more_than_it_tells_is_allowed_for(ahead_s, off_s):
    one = flow_run("COMPLETED", 10_000.0, 10_001.0)
    [found] = flow_run_times(Prefect(one, ahead_s=ahead_s), [str(one.id)]).values()
    assert found.running == pytest.approx(10_000.0 - off_s, abs=0.5)
    assert found.ended - found.running == pytest.approx(1.0)
