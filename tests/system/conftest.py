"""A real local stack for the tests that need one: Tiled, Prefect and worker, each a process."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bluesky_prefect.core import Settings, get_settings
from bluesky_prefect.stack import LocalStack, StackInfo
from bluesky_prefect.stack._prefect import PrefectServer
from tests.services.made_databases import MadeDatabases
from tests.services.started_with import EVENTS_AT_ONCE, started_with
from tests.system.demo_command import demo

# Not above: this is read before the tests have homes of their own, and Prefect and Tiled look at the environment.
if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import Catalog
    from tests.system.hutch import Hutch


@pytest.fixture(scope="session")
def outside_services() -> dict[str, str]:
    """Settings that point the flows to stand-ins for services on the internet.

    Port 9 (discard) is closed: whoever does not replace this fixture sees services that refuse.
    """
    refusing = "http://127.0.0.1:9"
    return {
        "weather_archive_url": f"{refusing}/archive",
        "weather_forecast_url": f"{refusing}/forecast",
        "cat_fact_url": f"{refusing}/fact",
    }


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory, outside_services: dict[str, str]) -> Settings:
    """The settings of the session's stack: free ports, a state directory of its own."""
    # Tests write runs to its Tiled that nobody subscribed a callback to: reconciliation would start flows on them.
    values: dict[str, Any] = {"tiled_port": 0, "prefect_port": 0, "reconcile_every_s": 86400, **outside_services}
    return Settings(state_directory=tmp_path_factory.mktemp("stack") / "state", **values)


@pytest.fixture(scope="session")
def made_databases(tmp_path_factory: pytest.TempPathFactory) -> MadeDatabases:
    """What Prefect servers start from, unless a first start is what is tested; made once for all workers of xdist."""
    folder = tmp_path_factory.getbasetemp()
    return MadeDatabases(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def stack(stack_settings: Settings, made_databases: MadeDatabases) -> Iterator[StackInfo]:
    """A stack that is up for the whole session, shared by all tests that do not stop parts of it."""
    local = LocalStack(stack_settings)
    try:
        made_databases.for_stack(local.paths.root)
        with started_with(PrefectServer, EVENTS_AT_ONCE):
            info = local.up(print)
        yield info
    finally:
        local.down(print, flow_runs_timeout_s=0)


@pytest.fixture(scope="session")
def demo_on_stack(stack: StackInfo, stack_settings: Settings, outside_services: dict[str, str]) -> tuple[Any, Any]:
    """The demo of two plans, run on the session's stack: the stack's processes before that, and what it printed."""
    before = LocalStack(stack_settings).processes()
    return before, demo(outside_services, "--keep", "--plans", "2", "--state-directory", str(stack.state_directory))


@pytest.fixture
def own_stack(
    tmp_path: Path, outside_services: dict[str, str], made_databases: MadeDatabases
) -> Iterator[Callable[..., LocalStack]]:
    """Make stacks (not started) with settings of the test's own; all are taken down at its end."""
    made: list[LocalStack] = []

    def make(**values: Any) -> LocalStack:
        defaults = {"state_directory": tmp_path / "state", "tiled_port": 0, "prefect_port": 0}
        made.append(LocalStack(Settings(**{**defaults, **outside_services, **values})))
        if len(made) == 1:
            made_databases.for_stack(made[0].paths.root)
        return made[-1]

    yield make
    for local in made:
        local.down(print, flow_runs_timeout_s=0)


@pytest.fixture(scope="module")
def _deployment(stack: StackInfo) -> Iterator[None]:
    from tests.system.hutch import idle_deployment

    with idle_deployment(stack):
        yield


@pytest.fixture
def hutch(stack: StackInfo, tmp_path: Path, _deployment: None) -> "Iterator[Hutch]":
    """A hutch of the test's own."""
    from tests.system.hutch import Hutch

    hutch = Hutch(stack, f"raw-{tmp_path.name}-{time.monotonic_ns()}", tmp_path / "state")
    yield hutch
    hutch.close()


@pytest.fixture
def catalog(room: Any) -> "Iterator[Catalog]":
    """The catalog of a module's room."""
    from bluesky_prefect.tiled_api import Catalog

    with Catalog.connect(get_settings()) as catalog:
        yield catalog
