"""Which flow runs get an interpreter of their own."""

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from bluesky_prefect.worker._job_variables import WarmJobConfiguration

SERVER = {"PATH": "/bin", "OPENBLAS_NUM_THREADS": "4", "PYTHONPATH": "/a"}


def reason(env, *, command=False):
    configuration = WarmJobConfiguration(env=env, command="python -m prefect.engine" if command else None)
    configuration.prepare_for_flow_run(FlowRun(flow_id=uuid4()))
    configuration.env = env  # without what this process has
    return configuration.why_not_forkable(SERVER)


def test_a_job_with_other_settings_and_paths_is_forked():
    assert reason({**SERVER, "PREFECT_LOGGING_LEVEL": "DEBUG", "SAMPLE": "x", "PYTHONPATH": "/b", "PATH": ""}) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"OPENBLAS_NUM_THREADS": "8"}, "OPENBLAS_NUM_THREADS"),
        ({"PYTHONHASHSEED": "0"}, "PYTHONHASHSEED"),
        ({"LD_LIBRARY_PATH": "/opt"}, "LD_LIBRARY_PATH"),
        ({"PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "true"}, "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES"),
    ],
)
def test_what_only_a_new_interpreter_reads_needs_one(changed, named):
    assert named in reason({**SERVER, **changed})


def test_a_variable_that_is_taken_away_needs_one():
    assert "OPENBLAS_NUM_THREADS" in reason({"PATH": "/bin"})


def test_a_command_needs_one():
    assert "command" in reason(SERVER, command=True)
