"""What the worker asks Prefect, how often, and for how long."""

import asyncio
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAbortDetails, StateAcceptDetails
from prefect.exceptions import Abort
from prefect.states import Crashed, Pending, Submitting

from bluesky_prefect.worker._client import WorkerClient, is_transient, retry_transient
from bluesky_prefect.worker._flow_runs import FlowRunsInHand, Phase


class Server:
    """Answers after some failures, and counts."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.asked = 0

    async def read(self, *_, **__):
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    read_deployment = read_flow = get_scheduled_flow_runs_for_work_pool = read


def client_of(server, in_hand=None, *, has_room=lambda: True, select=lambda listed: listed, proposed=None):
    noted = proposed if proposed is not None else []
    return WorkerClient(
        server,
        in_hand or none_in_hand(),
        has_room=has_room,
        select=select,
        on_proposed=lambda *proposal: noted.append(proposal),
    )


def none_in_hand():
    return FlowRunsInHand(on_ended=lambda one: None)


def pending(in_hand):
    return {one.id: one.proposal for one in in_hand.all_in(Phase.PENDING)}


def status(code):
    response = httpx.Response(code, request=httpx.Request("GET", "http://127.0.0.1"))
    return httpx.HTTPStatusError(str(code), request=response.request, response=response)


def test_a_server_that_is_busy_or_away_is_asked_again():
    server = Server(status(503), httpx.ReadTimeout("late"))
    assert asyncio.run(retry_transient(server.read)) == "answer"
    assert server.asked == 3
    assert all(map(is_transient, (status(500), status(429), httpx.ConnectError("refused"))))


def test_a_server_that_refuses_is_not_asked_again():
    server = Server(status(422))
    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(retry_transient(server.read))
    assert server.asked == 1


def test_a_deployment_is_read_once_for_each_flow_run_and_a_flow_once():
    server = Server()
    client = client_of(server)
    deployment, flow = uuid4(), uuid4()

    async def submit():
        for _ in range(2):
            await client.read_deployment(deployment)
            await client.read_flow(flow)

    async def test():
        await asyncio.gather(submit(), submit())

    asyncio.run(test())
    # Two flow runs, each with the deployment as it is then; the flow is the same for both.
    assert 3 <= server.asked <= 4
    before = server.asked
    asyncio.run(submit())
    assert server.asked == before + 1


def test_a_deployment_that_cannot_be_read_ends_no_worker_but_its_flow_run():
    client = client_of(Server(status(403), status(403)))

    async def test():
        # Of the first answer, the base class wants to know only whether there is a deployment.
        assert await client.read_deployment(uuid4()) is None
        with pytest.raises(httpx.HTTPStatusError):
            await client.read_deployment(uuid4())

    asyncio.run(test())


def test_without_room_no_flow_runs_are_asked_for():
    server = Server()
    assert asyncio.run(client_of(server, has_room=lambda: False).get_scheduled_flow_runs_for_work_pool("pool")) == []
    assert server.asked == 0
    selected = asyncio.run(client_of(server, select=list).get_scheduled_flow_runs_for_work_pool("pool"))
    assert selected == list("answer")


class Orchestration:
    """Accepts states when it is let, after some failures."""

    def __init__(self, status=SetStateStatus.ACCEPT, failures=()):
        self.status = status
        self.failures = list(failures)
        self.proposed = []
        self.let = asyncio.Event()

    async def set_flow_run_state(self, flow_run_id, state, force=False):
        self.proposed.append(state)
        if self.failures:
            raise self.failures.pop(0)
        await self.let.wait()
        accepted = self.status == SetStateStatus.ACCEPT
        details = StateAcceptDetails() if accepted else StateAbortDetails(reason="somebody else has it")
        return OrchestrationResult(state=state, status=self.status, details=details)


def test_the_state_submitting_is_never_sent():
    async def test():
        server = Orchestration()
        result = await client_of(server).set_flow_run_state(uuid4(), Submitting())
        assert result.status == SetStateStatus.ACCEPT
        assert server.proposed == []

    asyncio.run(test())


@pytest.mark.parametrize("status", [SetStateStatus.ACCEPT, SetStateStatus.ABORT])
def test_a_flow_run_is_pending_if_prefect_accepts_it_and_until_its_next_state(status):
    async def test():
        server, in_hand, proposed, flow_run = Orchestration(status), none_in_hand(), [], uuid4()
        server.let.set()
        client = client_of(server, in_hand, proposed=proposed)
        await client.set_flow_run_state(flow_run, Pending())
        accepted = status == SetStateStatus.ACCEPT
        assert list(pending(in_hand)) == ([flow_run] if accepted else [])
        await client.set_flow_run_state(flow_run, Crashed())
        assert pending(in_hand) == {}
        assert [one[2] for one in proposed] == [accepted, accepted]

    asyncio.run(test())


def test_a_crash_is_reported_to_a_server_that_answers_500_and_later_accepts():
    async def test():
        server, proposed = Orchestration(failures=[status(500)]), []
        server.let.set()
        await client_of(server, proposed=proposed).set_flow_run_state(uuid4(), Crashed())
        assert [one[2] for one in proposed] == [True]

    asyncio.run(test())


def test_no_crash_is_reported_of_a_flow_run_that_is_scheduled_again():
    async def test():
        server, in_hand, flow_run = Orchestration(), none_in_hand(), FlowRun(flow_id=uuid4(), state_id=uuid4())
        in_hand.begin(flow_run, None)
        assert not in_hand.may_take(flow_run.model_copy(update={"state_id": uuid4()}))
        with pytest.raises(Abort):
            await client_of(server, in_hand).set_flow_run_state(flow_run.id, Crashed())
        assert server.proposed == []

    asyncio.run(test())


def test_a_proposal_outlives_the_task_that_made_it():
    async def test():
        server, in_hand, flow_run = Orchestration(), none_in_hand(), uuid4()
        client = client_of(server, in_hand)
        proposing = asyncio.ensure_future(client.set_flow_run_state(flow_run, Pending()))
        while not pending(in_hand):
            await asyncio.sleep(0)
        proposing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await proposing
        server.let.set()
        assert (await pending(in_hand)[flow_run]).status == SetStateStatus.ACCEPT

    asyncio.run(test())


def test_everything_else_is_asked_as_it_is():
    assert client_of(SimpleNamespace(read_flow_run="theirs")).read_flow_run == "theirs"
