"""What becomes of flow runs where the system refuses the fork server something, for real."""

import asyncio
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bluesky_prefect.worker.forkserver._handle import ForkFailed
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from tests.services.limited_account import as_limited_account

ROOT = Path(__file__).parents[3]


def outcome(scarce):
    """Return what comes of forking where something is scarce, as an account that limits count for."""
    done = subprocess.run(
        [*as_limited_account(), sys.executable, "-m", "tests.unit.worker.scarce", scarce],
        cwd=ROOT,
        env={**os.environ, "HOME": "/nonexistent", "PREFECT_HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("scarce", ["fork", "descriptor"])
def test_a_fork_that_is_refused_is_tried_again_and_no_other_flow_run_suffers(scarce):
    assert outcome(scarce) == {"waits": True, "other": 1, "code": 1, "same server": True}


def test_flow_runs_are_forked_on_kernels_without_descriptors_of_processes():
    assert outcome("pidfd") == {"code": 1, "same server": True}


def test_a_flow_run_that_the_system_goes_on_refusing_fails_with_what_to_look_at(monkeypatch, caplog):
    monkeypatch.setattr("bluesky_prefect.worker.forkserver._pool._WAITS_S", (0.01, 0.01))

    async def test():
        forks = ForkServerPool(os.environ)
        try:
            await forks.preload([])
            _, most = resource.prlimit(forks.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(forks.pid, resource.RLIMIT_NOFILE, (3, most))
            with pytest.raises(ForkFailed, match=r"'ulimit -u'.*--limit"):
                await forks.fork()
        finally:
            await forks.close()

    asyncio.run(test())
    assert caplog.text.count("No process for a flow run now") == 2
