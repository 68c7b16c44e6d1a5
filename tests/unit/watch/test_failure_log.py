"""How often the courier asks Prefect for failures."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.filters import FlowRunFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.watch import FailureLog
from tests.services.prefect_stand_in import PrefectStandIn

WORKFLOW = "my-workflow/local"


class Desk:
    """A courier's log of failures, beside an outbox and a Prefect that counts what it is asked."""

    def __init__(self, settings, outbox, api, prefect) -> None:
        self.clock = SimpleNamespace(now=1_000.0)
        self.prefect = prefect
        self._outbox, self._api = outbox, api
        self._log = FailureLog(settings, clock=lambda: self.clock.now)

    def send(self, state: str) -> str:
        flow_run_id, uid = str(uuid4()), str(uuid4())
        self.prefect.states[flow_run_id] = state
        self._outbox.put(Submission(submission_key(uid, WORKFLOW), WORKFLOW, WORKFLOW, uid))
        self._outbox.mark_sent(submission_key(uid, WORKFLOW), flow_run_id, "name")
        return flow_run_id

    def steps(self) -> int:
        """Look once, and return how many steps SQLite took, in tens."""
        taken: list[int] = []
        with self._outbox._relaxed._opened("steps") as connection:
            connection.set_progress_handler(lambda: taken.append(1), 10)
        try:
            self.look()
        finally:
            with self._outbox._relaxed._opened("steps") as connection:
                connection.set_progress_handler(None, 0)
        return len(taken)

    def look(self) -> tuple[int, list[str]]:
        """Look once, three seconds later; return how often it asked for all failures, and for which flow runs."""
        self.clock.now += 3
        self.prefect.filters.clear()
        self._log.look(self._outbox, self._api)
        asked = [one["id"]["any_"] for one in self.prefect.filters if one.get("id")]
        return len(self.prefect.filters) - len(asked), sorted(one for ids in asked for one in ids)


@pytest.fixture
def desk(tmp_path):
    settings = Settings(state_directory=tmp_path)
    with (
        closing(PrefectStandIn().start()) as prefect,
        temporary_settings({PREFECT_API_URL: prefect.url}),
        closing(Outbox(settings.outbox_path)) as outbox,
        PrefectApi(5) as api,
    ):
        yield Desk(settings, outbox, api, prefect)


def test_where_nothing_is_outstanding_prefect_is_asked_twice_a_minute(desk):
    desk.send("COMPLETED")
    desk.look()
    looks = [desk.look() for _ in range(20)]
    assert [ids for _, ids in looks] == [[]] * 20
    assert sum(many for many, _ in looks) == 2


def test_prefect_looks_through_the_failures_of_two_days_and_not_through_all_it_keeps(desk):
    desk.send("COMPLETED")
    desk.look()
    [asked] = [one for one in desk.prefect.filters if not one.get("id")]
    by = "end_time" if "end_time" in FlowRunFilter.model_fields else "expected_start_time"  # of an old client
    age = datetime.now(UTC) - datetime.fromisoformat(asked[by]["after_"])
    assert timedelta(days=2) <= age < timedelta(days=2, minutes=5)


def test_what_was_sent_from_here_is_looked_at_each_time_and_its_failure_told_at_once(desk):
    desk.send("COMPLETED")
    desk.look()
    flow_run_id = desk.send("RUNNING")
    assert [desk.look() for _ in range(3)] == [(0, [flow_run_id])] * 3
    desk.prefect.states[flow_run_id] = "FAILED"
    assert desk.look() == (1, [flow_run_id])
    assert desk.look() == (0, [])


def test_a_look_costs_the_same_however_much_is_kept(desk):
    for _ in range(3):
        desk.send("COMPLETED")
    desk.look()
    steps = [desk.steps()]
    for _ in range(2000):
        desk.send("COMPLETED")
    desk.look()
    steps.append(desk.steps())
    assert steps[1] < 2 * steps[0]


def test_where_no_worker_is_there_no_more_is_remembered_than_is_asked_for_in_turns(desk):
    for _ in range(5):
        for _ in range(100):
            desk.send("PENDING")
        desk.look()
    assert len({one for _ in range(12) for one in desk.look()[1]}) == 200


def test_of_many_that_are_outstanding_each_has_its_turn(desk):
    sent = [desk.send("PENDING") for _ in range(120)]
    looks = [desk.look()[1] for _ in range(3)]
    assert [len(ids) for ids in looks] == [50, 50, 50]
    assert {one for ids in looks for one in ids} == set(sent)
