"""What a flow run shows in Prefect's UI, and that nothing is lost where it cannot be shown."""

import asyncio
import secrets
from urllib.parse import urlsplit

import pytest
from prefect.artifacts import acreate_markdown_artifact
from prefect.settings import PREFECT_API_URL, temporary_settings

from bluesky_prefect.flows import plain_flow
from bluesky_prefect.flows.common._artifacts import publish_artifact
from bluesky_prefect.flows.common._progress import Progress
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import ask
from tests.system.flow_room import room_for


@pytest.fixture(scope="module", autouse=True)
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("artifacts")) as room:
        yield room


@pytest.fixture
def proxy(stack):
    proxy = FaultProxy(urlsplit(stack.prefect_api_url).port)
    yield proxy
    proxy.close()


def artifacts(stack, key):
    asked = {"artifacts": {"key": {"any_": [key]}}}
    return ask(stack, "POST", "/artifacts/filter", json=asked).raise_for_status().json()


def test_an_artifact_that_a_busy_server_does_not_take_is_a_warning(stack, proxy, caplog):
    @plain_flow(name="shows")
    async def shows() -> str:
        proxy.mode = "503"
        assert (
            await publish_artifact(acreate_markdown_artifact("x", key="never-written"), "never-written", most_s=0.5)
            is None
        )
        proxy.mode = "pass"
        return "done"

    with temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
        assert shows() == "done"
    assert "The artifact never-written could not be written: TimeoutError" in caplog.text
    assert artifacts(stack, "never-written") == []


def test_work_that_takes_long_shows_how_far_it_is(stack):
    key = f"long-work-{secrets.token_hex(4)}"

    @plain_flow(name="works")
    async def works() -> None:
        async with Progress(key, after_s=0, every_s=0.01) as progress:
            for percent in (25.0, 250.0):
                progress.percent = percent
                while [one["data"] for one in artifacts(stack, key)] != [min(percent, 100.0)]:
                    await asyncio.sleep(0.05)
            progress.percent = 75.0

    works()
    assert [one["data"] for one in artifacts(stack, key)] == [100.0]


@pytest.mark.parametrize("fails", [True, False])
def test_work_that_ends_soon_shows_nothing(stack, fails):
    @plain_flow(name="works")
    async def works() -> None:
        async with Progress("short-work", after_s=1000) as progress:
            progress.percent = 50.0
            if fails:
                raise ArithmeticError("broken")

    state = works(return_state=True)
    assert state.is_failed() is fails
    assert artifacts(stack, "short-work") == []
