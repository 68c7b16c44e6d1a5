"""What bluesky-queueserver asks of startup code, asked by bluesky-queueserver itself."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bluesky_prefect.session._ipython import startup_files

_STARTUP = startup_files()[0].parent


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Plans and devices as the queue server sees them, with no service there."""
    directory = tmp_path_factory.mktemp("queueserver")
    environment = {
        **os.environ,
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(directory / "state"),
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    command = [
        Path(sys.executable).with_name("qserver-list-plans-devices"),
        f"--startup-dir={_STARTUP}",
        f"--file-dir={directory}",
    ]
    subprocess.run(command, env=environment, timeout=120, check=True)
    return yaml.safe_load((directory / "existing_plans_and_devices.yaml").read_text())


def test_the_queue_server_lists_the_plans_and_nothing_else(listed):
    assert set(listed["existing_plans"]) == {
        "close_in_on_peak",
        "count",
        "failing_scan",
        "find_peak",
        "grid_scan",
        "list_scan",
        "rel_scan",
        "scan",
        "two_runs_interleaved",
    }


def test_the_queue_server_lists_the_devices_and_nothing_else(listed):
    devices = {name: device["classname"] for name, device in listed["existing_devices"].items()}
    assert devices == {
        "motor": "SynAxis",
        "motor1": "SynAxis",
        "motor2": "SynAxis",
        "det": "SynGauss",
        "det1": "SynGauss",
        "det2": "SynGauss",
        "noisy_det": "SynGauss",
        "image_det": "ImageDetector",
    }


def test_the_queue_server_knows_what_the_plans_take(listed):
    parameters = {one["name"]: one for one in listed["existing_plans"]["find_peak"]["parameters"]}

    assert parameters["detector"]["annotation"]["type"] == "__READABLE__"
    assert parameters["motor"]["annotation"]["type"] == "__MOVABLE__"
    assert parameters["num"]["default"] == "11"
