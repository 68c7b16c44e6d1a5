"""How flow runs end whose processes are forked: with processes and a Prefect that are made up."""

import asyncio
import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Running, Scheduled

from bluesky_prefect.worker import _execution
from bluesky_prefect.worker._execution import Execution, Executor
from bluesky_prefect.worker._flow_runs import FlowRunsInHand, Phase
from bluesky_prefect.worker._job_variables import WarmJobConfiguration

IGNORED = SimpleNamespace(started=lambda pid: None)


class Prefect:
    """Has one flow run in a state, and takes each state that it is told."""

    def __init__(self, state, pid="1"):
        self.flow_run = FlowRun(flow_id=uuid4(), state_id=uuid4(), state=state, infrastructure_pid=pid)
        self.told = []

    async def read_flow_run(self, _):
        return self.flow_run

    async def set_flow_run_state(self, _, state, force=False):
        self.told.append(state.type)
        self.flow_run.state = state
        return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())


class Child:
    """A process that ends when it is let, with a code; one for hooks ends at once."""

    pid = 1

    def __init__(self, code=None):
        self.code = code
        self.jobs = []
        self.ended = asyncio.Event()
        self.stopped = False

    async def run(self, job):
        self.jobs.append("hooks" if job.hooks else "flow")
        try:
            if self.code is None:
                await self.ended.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        return self.code or 0

    async def cancel(self):
        self.ended.set()

    def abandon(self):
        self.stopped = True


def hand_over(prefect, *children):
    """Return an executor, and the flow run in its hand, whose processes are these."""
    waiting = list(children)

    async def fork():
        return waiting.pop(0)

    configuration = WarmJobConfiguration(env=dict(os.environ), working_dir=Path.cwd())
    execution = Execution(prefect.flow_run, configuration, SimpleNamespace(fork=fork))
    in_hand = FlowRunsInHand(on_ended=lambda one: None)
    one = in_hand.begin(prefect.flow_run, execution)
    return Executor(in_hand, lambda: prefect), in_hand, one, execution


def test_a_flow_run_is_cancelled_with_its_hooks():
    async def test():
        prefect, child, hooks = Prefect(Running()), Child(), Child(code=0)
        executor, _, one, execution = hand_over(prefect, child, hooks)
        running = asyncio.ensure_future(executor.run(one, execution, IGNORED))
        await asyncio.sleep(0)
        prefect.flow_run.state = Cancelling()
        await executor.cancel(one.id)
        await running
        assert (child.jobs, hooks.jobs) == (["flow"], ["hooks"])
        assert prefect.told == [Cancelled().type]

    asyncio.run(test())


def test_a_flow_run_that_is_cancelled_before_it_has_a_process_gets_none():
    async def test():
        prefect, child, hooks = Prefect(Cancelling()), Child(), Child(code=0)
        executor, _, one, execution = hand_over(prefect, child, hooks)
        await executor.cancel(one.id)
        assert await executor.run(one, execution, IGNORED) == 0
        assert child.stopped
        assert child.jobs == []
        assert prefect.told == [Cancelled().type]

    asyncio.run(test())


@pytest.mark.parametrize(("state", "told"), [(Cancelling(), [Cancelled().type]), (Running(), [])])
def test_a_process_that_fails_has_crashed_unless_its_flow_run_is_to_be_cancelled(state, told):
    async def test():
        prefect = Prefect(state)
        executor, _, one, execution = hand_over(prefect, Child(code=1), Child(code=0))
        assert await executor.run(one, execution, IGNORED) == 1
        assert prefect.told == told
        assert one.phase is (Phase.SETTLING if told else Phase.CRASHED)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("state", "cancelled", "told"),
    [
        (Running(), False, [Crashed().type]),
        (Cancelling(), True, [Cancelled().type]),
        (Crashed(), True, [Cancelled().type]),
        # It was faster than its cancellation.
        (Completed(), True, []),
    ],
)
def test_a_worker_that_stops_says_what_has_become_of_a_flow_run(state, cancelled, told):
    async def test():
        prefect, child = Prefect(Running()), Child()
        executor, in_hand, one, execution = hand_over(prefect, child)
        running = asyncio.ensure_future(executor.run(one, execution, IGNORED))
        await asyncio.sleep(0)
        if cancelled:
            in_hand.cancel(one.id)
        prefect.flow_run.state = state
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await executor.say_last_word(one)
        assert child.stopped
        assert prefect.told == told

    asyncio.run(test())


def test_a_worker_that_stops_leaves_what_has_no_process_to_another():
    async def test():
        prefect = Prefect(Running())
        executor, _, one, _ = hand_over(prefect)
        await executor.say_last_word(one)
        assert prefect.told == [Scheduled().type]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("state", "pid", "told"),
    [
        (Cancelling(), "1", [Cancelled().type]),
        # Another worker has it since; or it has no need of it any more.
        (Cancelling(), "2", []),
        (Completed(), "1", []),
    ],
)
def test_a_flow_run_that_is_cancelled_after_its_end_is_settled_by_who_had_it_last(state, pid, told):
    async def test():
        prefect = Prefect(Running())
        executor, in_hand, one, execution = hand_over(prefect, Child(code=0), Child(code=0))
        await executor.run(one, execution, IGNORED)
        in_hand.end(one)
        prefect.flow_run.state, prefect.flow_run.infrastructure_pid = state, pid
        await executor.cancel(one.id)
        assert prefect.told == told
        assert one.phase is Phase.ENDED

    asyncio.run(test())


def test_hooks_that_hang_are_stopped_and_the_state_is_set(monkeypatch, caplog):
    monkeypatch.setattr(_execution, "HOOKS_TIMEOUT_S", 0.05)

    async def test():
        prefect, hooks = Prefect(Cancelling()), Child()
        executor, _, one, execution = hand_over(prefect, Child(code=1), hooks)
        await asyncio.wait_for(executor.run(one, execution, IGNORED), 30)
        assert hooks.stopped
        assert prefect.told == [Cancelled().type]

    asyncio.run(test())
    assert "did not run to their end" in caplog.text


def test_a_worker_that_stops_says_the_last_word_also_on_what_was_cancelled_after_its_end():
    async def test():
        prefect, hooks = Prefect(Running()), Child()
        executor, in_hand, one, execution = hand_over(prefect, Child(code=0), hooks)
        await executor.run(one, execution, IGNORED)
        in_hand.end(one)
        prefect.flow_run.state = Cancelling()
        cancelling = asyncio.ensure_future(executor.cancel(one.id))
        while not hooks.jobs:
            await asyncio.sleep(0)
        assert in_hand.is_busy(one.id)
        assert in_hand.all_in(Phase.SETTLING) == [one]
        await executor.say_last_word(one)
        cancelling.cancel()
        await asyncio.gather(cancelling, return_exceptions=True)
        assert hooks.stopped
        assert prefect.told == [Cancelled().type]
        assert one.phase is Phase.ENDED

    asyncio.run(test())
