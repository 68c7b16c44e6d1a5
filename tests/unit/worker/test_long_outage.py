"""A worker outlives an outage of Prefect, and says nothing of it beside what its log of outages does."""

import asyncio

import httpx
import pytest
from prefect.workers.base import BaseWorker

from bluesky_prefect.worker import WarmProcessWorker


def refused(status):
    request = httpx.Request("POST", "http://prefect.example/api")
    if status is None:
        return httpx.ConnectError("All connection attempts failed", request=request)
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


@pytest.fixture
def worker(request, monkeypatch):
    async def fail(self):
        raise request.param

    for name in ("get_and_submit_flow_runs", "sync_with_backend"):
        monkeypatch.setattr(BaseWorker, name, fail)
    worker = WarmProcessWorker(work_pool_name="pool")
    worker._preloaded = []  # it has known the work pool
    return worker


@pytest.mark.parametrize("worker", [refused(None), refused(503)], indirect=True, ids=["refused", "503"])
def test_nothing_that_passes_counts_against_the_worker(worker):
    assert asyncio.run(worker.get_and_submit_flow_runs()) == []
    asyncio.run(worker.sync_with_backend())


@pytest.mark.parametrize("worker", [refused(401)], indirect=True, ids=["401"])
def test_what_waiting_does_not_cure_does(worker):
    for call in (worker.get_and_submit_flow_runs, worker.sync_with_backend):
        with pytest.raises(httpx.HTTPStatusError):
            asyncio.run(call())


@pytest.mark.parametrize("worker", [refused(None)], indirect=True, ids=["refused"])
def test_at_its_start_the_worker_is_told_that_prefect_is_away(worker):
    worker._preloaded = None
    with pytest.raises(httpx.ConnectError):
        asyncio.run(worker.sync_with_backend())
