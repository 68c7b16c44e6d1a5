"""The worker stands on public names of Prefect, and on a few private ones in one file."""

import ast
import asyncio
from pathlib import Path

import prefect
import pytest
from prefect._internal import control_listener
from prefect.workers.base import BaseWorker

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.worker import _worker
from bluesky_prefect.worker._prefect_internals import announce_cancellation, require_tested_prefect

# By which Prefect's documentation has a worker describe itself.
DOCUMENTED = {"_description", "_display_name"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


class Stock(BaseWorker):
    type = "stock"

    async def run(self, *_, **__):
        raise NotImplementedError


def test_the_worker_touches_no_private_name_of_its_base_class():
    theirs = {name for name in (*dir(BaseWorker), *vars(Stock(work_pool_name="pool"))) if is_private(name)}
    tree = ast.parse(Path(_worker.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)}
    assert used & theirs <= DOCUMENTED


@pytest.mark.parametrize("version", ["3.7.8", "3.10.0", "4.0", "3.80.1"])
def test_an_untested_prefect_is_refused_by_name(version):
    with pytest.raises(ConfigurationError, match=f"this is {version}.*'process'"):
        require_tested_prefect(version)


def test_a_worker_with_an_untested_prefect_ends_with_one_line(monkeypatch):
    monkeypatch.setattr("bluesky_prefect.worker._prefect_internals.TESTED", ("2.0",))
    with pytest.raises(SystemExit, match=r"tested with Prefect 2\.0, and this is") as ended:
        asyncio.run(_worker.WarmProcessWorker(work_pool_name="pool").start())
    assert "\n" not in str(ended.value)


def test_the_prefect_that_is_installed_is_a_tested_one():
    require_tested_prefect()
    assert prefect.__version__


def test_the_engine_is_told_of_a_cancellation():
    try:
        announce_cancellation()
        assert control_listener.get_intent() == "cancel"
    finally:
        control_listener.clear_intent()
