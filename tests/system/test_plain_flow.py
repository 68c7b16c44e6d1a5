"""The flows are called like functions wherever somebody stands, and waste no time at their end."""

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys

import pytest
from prefect import flow, task
from prefect.context import SyncClientContext

from bluesky_prefect.flows import data_validation, export, fun_fact, my_workflow, plain_flow
from bluesky_prefect.flows.common._plain_flow import gather_all
from bluesky_prefect.reconciliation import reconcile
from tests.services.prefect_process import ask, wait_until
from tests.system.flow_room import room_for

FACT = "A cat can jump up to six times its length."


@pytest.fixture(scope="module", autouse=True)
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("plain")) as room:
        yield room


@plain_flow(name="doubled")
async def doubled(number: int) -> int:
    await asyncio.sleep(0)
    if number < 0:
        raise ArithmeticError("negative")
    return 2 * number


@plain_flow(name="halved")
def halved(number: int) -> float:
    return number / 2


def plainly():
    return doubled(2)


def of_a_plain_function():
    return halved(8)


def of_a_plain_function_while_a_loop_runs():
    async def cell():
        return halved(8)

    return asyncio.run(cell())


def of_a_plain_function_within_another():
    return plain_flow(name="parent")(lambda: halved(8))()


def of_a_plain_function_within_a_coroutine():
    async def parent():
        return halved(8)

    return plain_flow(name="parent")(parent)()


def while_a_loop_runs():
    # As in Jupyter, or in a callback of a RunEngine.
    async def cell():
        return doubled(2)

    return asyncio.run(cell())


def within_a_plain_flow():
    return flow(lambda: doubled(2), name="plain")()


def within_a_plain_task():
    return flow(lambda: task(lambda: doubled(2), name="plain-task")(), name="plain")()


def awaited_within_an_asynchronous_flow():
    async def parent():
        return await doubled(2)

    # Without this, Prefect's asynchronous engine leaves a client open.
    with SyncClientContext.get_or_create():
        return asyncio.run(flow(parent, name="asynchronous")())


def within_another():
    async def parent():
        return await doubled(2)

    return plain_flow(name="parent")(parent)()


@pytest.mark.parametrize(
    "call",
    [
        plainly,
        of_a_plain_function,
        of_a_plain_function_while_a_loop_runs,
        of_a_plain_function_within_another,
        of_a_plain_function_within_a_coroutine,
        while_a_loop_runs,
        within_a_plain_flow,
        within_a_plain_task,
        awaited_within_an_asynchronous_flow,
        within_another,
    ],
    ids=lambda call: call.__name__,
)
def test_a_call_returns_the_result(call):
    assert call() == 4


def test_a_call_raises_what_the_flow_raised_or_returns_its_state():
    with pytest.raises(ArithmeticError, match="negative"):
        doubled(-1)
    assert doubled.with_options(name="twice")(-1, return_state=True).is_failed()


def test_a_call_leaves_the_thread_the_event_loop_that_it_had():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert doubled(3) == 6
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_a_failure_has_no_chain_of_what_came_before(room):
    with pytest.raises(ArithmeticError, match="negative") as caught:
        doubled(-1)
    assert caught.value.__context__ is None


def test_work_done_together_is_done_when_its_error_is_raised():
    done = []

    async def slow():
        await asyncio.sleep(0.05)
        done.append("slow")

    async def broken():
        raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError, match="broken"):
        asyncio.run(gather_all(broken(), slow()))
    assert done == ["slow"]


@pytest.mark.parametrize(
    "each", [my_workflow, export, fun_fact, data_validation, reconcile], ids=lambda each: each.name
)
def test_no_flow_waits_for_its_heartbeats_when_it_ends(each):
    # What Prefect does for the flows that are coroutines.
    assert each.isasync
    assert inspect.iscoroutinefunction(each.fn)


def test_the_flows_give_signs_of_life(stack):
    state = fun_fact(return_state=True)
    assert state.result() == FACT
    flow_run = f"prefect.flow-run.{state.state_details.flow_run_id}"
    asked = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [flow_run]}}}

    def events():
        return ask(stack, "POST", "/events/filter", json=asked).json().get("events")

    assert wait_until(events)


def test_ctrl_c_ends_the_wait_for_a_run_and_the_flow_run_is_cancelled(room):
    # As at a terminal; whoever is started in the background ignores the signal.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from bluesky_prefect.flows import export; export('00000000-0000-0000-0000-000000000000')"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **room.environment(), "BLUESKY_PREFECT_STOP_TIMEOUT_S": "600"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert any("Beginning flow run" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        last_words = process.stderr.read()
    assert "Finished in state Cancelled('Interrupted by Ctrl-C')" in last_words
    assert "During handling" not in last_words
    assert re.search(r"Interrupted: flow run '.+' is cancelled$", last_words.rstrip())
