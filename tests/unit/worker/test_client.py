"""What the worker asks Prefect, how often, and for how long."""

import asyncio
from uuid import uuid4

import httpx
import pytest

from bluesky_prefect.worker._client import SparingClient, begin_submission, is_transient, patiently


class Server:
    """Answers after some failures, and counts."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.asked = 0

    async def read(self, *_):
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    read_deployment = read_flow = read


def status(code):
    response = httpx.Response(code, request=httpx.Request("GET", "http://127.0.0.1"))
    return httpx.HTTPStatusError(str(code), request=response.request, response=response)


def test_it_is_patient_with_a_server_that_is_busy_or_away():
    server = Server(status(503), httpx.ReadTimeout("late"))
    assert asyncio.run(patiently(server.read)) == "answer"
    assert server.asked == 3
    assert all(map(is_transient, (status(500), status(429), httpx.ConnectError("refused"))))


def test_it_does_not_ask_again_what_is_refused():
    server = Server(status(422))
    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(patiently(server.read))
    assert server.asked == 1


def test_a_deployment_is_read_once_for_each_flow_run_and_a_flow_once():
    server = Server()
    client = SparingClient(server)
    deployment, flow = uuid4(), uuid4()

    async def submit():
        begin_submission()
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
