"""Whatever is done to an outbox, in whatever order: no submission is lost, and none is in two hands."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.outbox import Outbox

LEASE_S = 60
DELAY_S = 30
DEPLOYMENTS = st.sampled_from(["flow/one", "flow/two"])


class OutboxModel(RuleBasedStateMachine):
    """Two takers on one file, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "outbox.sqlite"
        self.outboxes = [Outbox(path, lease_s=LEASE_S, clock=lambda: self.now) for _ in range(2)]
        for outbox in self.outboxes:
            outbox._durable = outbox._relaxed  # the same without waiting for the disk thousands of times
        self.states: dict[str, str] = {}
        self.held: dict[str, float] = {}  # until when
        self.unsure: set[str] = set()
        self.put_in = 0

    def teardown(self) -> None:
        # What waits is handed out, all of it, when the longest wait and the lease are over: whatever the clock did.
        self.now += LEASE_S + DELAY_S + 1
        found = set()
        while entry := self.outboxes[0].take():
            found.add(entry.key)
            self.outboxes[0].mark_sent(entry.key, "id", "name")
        for outbox in self.outboxes:
            outbox.close()
        self.directory.cleanup()
        assert found == {key for key, state in self.states.items() if state == "waiting"}

    @rule(deployment=DEPLOYMENTS, dead=st.booleans(), many=st.sampled_from([1, 3, 3, 101]))
    def put(self, deployment: str, dead: bool, many: int) -> None:
        for _ in range(many):
            uid = str(self.put_in)
            self.put_in += 1
            submission = Submission(submission_key(uid, deployment), deployment, deployment, uid)
            assert self.outboxes[0].put(submission, dead="why" if dead else None)
            self.states[submission.key] = "dead" if dead else "waiting"

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.states)))
        uid, _, deployment = key.partition(":")
        assert not self.outboxes[0].put(Submission(key, deployment, deployment, uid))

    @rule(taker=st.sampled_from([0, 1]))
    def take(self, taker: int) -> None:
        entry = self.outboxes[taker].take()
        if entry is not None:
            assert self.states[entry.key] == "waiting"
            assert self.held.get(entry.key, 0) <= self.now
            self.held[entry.key] = self.now + LEASE_S

    @precondition(lambda self: self.held)
    @rule(data=st.data(), result=st.sampled_from(["sent", "dead", "later", "aside"]))
    def settle(self, data: st.DataObject, result: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[key]
        if result == "sent":
            self.outboxes[0].mark_sent(key, "id", "name")
        elif result == "dead":
            self.outboxes[0].mark_dead(key, "refused")
        else:
            self.outboxes[0].give_back(key, "outage", DELAY_S, aside=result == "aside")
        if result in ("sent", "dead"):
            self.states[key] = result

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.states)))
        if self.outboxes[1].retry(key):
            self.states[key] = "waiting"
        else:
            assert self.states[key] == "sent"

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.states)))
        free = self.held.get(key, 0) <= self.now
        discarded = self.outboxes[1].discard(key)
        assert discarded or not free or self.states[key] == "sent" or key in self.unsure
        if discarded:
            assert free
            assert self.states.pop(key) != "sent"
            self.held.pop(key, None)

    @rule(passed_s=st.sampled_from([1, DELAY_S + 1, LEASE_S + 1]))
    def time_passes(self, passed_s: int) -> None:
        self.now += passed_s

    @rule(jump_s=st.sampled_from([-86_400, -3600, 86_400]))
    def the_clock_jumps(self, jump_s: int) -> None:
        self.now += jump_s
        # All leases are over (or not, if the clock jumps back again). Who has one may go on: Prefect knows the key.
        self.held = dict.fromkeys(self.held, 0)
        self.unsure |= set(self.held)

    @rule()
    def a_process_comes_back(self) -> None:
        self.outboxes[1].close()

    @invariant()
    def each_submission_is_there_in_its_state(self) -> None:
        entries = self.outboxes[1].entries(limit=100_000)
        assert {entry.key: entry.state for entry in entries} == self.states


TestOutboxModel = OutboxModel.TestCase
TestOutboxModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)
