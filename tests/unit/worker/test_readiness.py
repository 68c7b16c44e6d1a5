"""A worker that starts takes no flow run that could only fail."""

import asyncio
import logging
import os

import pytest

from bluesky_prefect.worker._job_variables import CHECK, WarmVariables, check_of
from bluesky_prefect.worker._readiness import Readiness
from bluesky_prefect.worker.forkserver._pool import ForkServerPool

FACILITY = """
import os
from pathlib import Path

def problem():
    place = Path(os.environ["PLACE"])
    return place.read_text() if place.exists() else ""

def raises():
    raise ValueError("the sample fell off")
"""


def run(test, tmp_path, check):
    """Run a test with the readiness of a work pool that names a check."""
    (tmp_path / "facility_check.py").write_text(FACILITY)

    async def with_forks():
        forks = ForkServerPool({**os.environ, "PYTHONPATH": str(tmp_path)})
        called = []

        async def checked():
            return check, {"PYTHONPATH": str(tmp_path), "PLACE": str(tmp_path / "wrong")}

        readiness = Readiness(forks, checked, lambda: called.append(True))
        try:
            await test(readiness, called)
        finally:
            await forks.close()

    asyncio.run(with_forks())


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("_readiness")]


def test_it_waits_until_the_check_has_nothing_to_say_and_tells_why_once(tmp_path, caplog):
    async def test(readiness, called):
        (tmp_path / "wrong").write_text("The key is wrong:\nset it.")
        waiting = asyncio.ensure_future(readiness.wait())
        while not lines(caplog):
            await asyncio.sleep(0.05)
        assert not readiness.is_ready
        assert not called
        (tmp_path / "wrong").unlink()
        await waiting
        assert readiness.is_ready
        assert called == [True]

    with caplog.at_level(logging.INFO):
        run(test, tmp_path, "facility_check:problem")
    [why, now] = lines(caplog)
    assert "The key is wrong:\\nset it." in why
    assert now == "Taking flow runs now."


@pytest.mark.parametrize(
    ("check", "why"),
    [("facility_check:raises", "the sample fell off"), ("facility_check:absent", "absent"), ("no_such:x", "no_such")],
)
def test_a_check_that_cannot_be_called_is_told_and_no_flow_run_is_taken(tmp_path, caplog, check, why):
    async def test(readiness, called):
        await readiness.look()
        assert not readiness.is_ready
        assert not called

    run(test, tmp_path, check)
    [line] = lines(caplog)
    assert check in line
    assert why in line


def test_without_a_check_flow_runs_are_taken_at_once(tmp_path):
    async def test(readiness, called):
        await readiness.wait()
        assert readiness.is_ready
        assert called == [True]

    run(test, tmp_path, "")


def test_a_work_pool_made_by_an_earlier_version_has_the_check_of_today():
    template = {"variables": WarmVariables.model_json_schema()}
    assert check_of(template) == CHECK
    template["variables"]["properties"]["check"]["default"] = None
    assert check_of(template) == ""
    del template["variables"]["properties"]["check"]
    assert check_of(template) == CHECK
