"""What is on the disk of a process."""

import json
import os
import subprocess
import sys

import pytest

from bluesky_prefect.metrics import Signals
from bluesky_prefect.metrics._collector import problems
from bluesky_prefect.metrics._facts import FactsReader
from tests.conftest import missing_service

# In a mount namespace of its own, which ends with it.
_READ_ONLY = """
import json, subprocess, sys
from pathlib import Path
from bluesky_prefect.metrics import Signals
from bluesky_prefect.metrics._collector import problems
from bluesky_prefect.metrics._facts import FactsReader
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
found = []
for options in ("remount,rw", "remount,ro"):
    subprocess.run(["mount", "-o", options, sys.argv[1]], check=True)
    found.append(problems(Signals(), FactsReader([], Path(sys.argv[1]), None).read()))
print(json.dumps(found))
"""


def test_a_read_only_disk_is_a_problem_also_where_nothing_waits(tmp_path):
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        missing_service("mount namespaces (unshare, as root)")
    command = ["unshare", "--mount", sys.executable, "-c", _READ_ONLY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    well, [problem] = json.loads(done.stdout)
    assert well == []
    assert f"The disk of {tmp_path} is read-only" in problem


@pytest.mark.parametrize("name", ["", "not-there-yet"])
def test_a_directory_that_can_be_written_or_made_is_no_problem(tmp_path, name):
    assert problems(Signals(), FactsReader([], tmp_path / name, None).read()) == []
