"""A session with no service there, in a process of its own: it points that process to its services."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = """
import json, logging, sys, time
begin = time.monotonic()
from bluesky_prefect.core import get_settings
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.session import start_session
from bluesky.plans import count
from ophyd.sim import det

told = []
session = start_session(tell=told.append)
facts = {"start_s": time.monotonic() - begin, "modules": [m for m in ("prefect", "tiled") if m in sys.modules]}
outbox = session.prefect_callback.outbox
facts["uid"] = session.run_engine(count([det], 2))[0]
facts["told"] = told
facts["journals"] = [one.run_uid for one in JournalDirectory(get_settings().journals_path).waiting()]
facts["waiting"] = [entry.run_uid for entry in outbox.entries()]
facts["plots"] = session.best_effort._plots_enabled
logging.getLogger("bluesky_prefect.somewhere").warning("the outbox is full")
print("FACTS" + json.dumps(facts))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path_factory.mktemp("session")),
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.fixture(scope="module")
def output(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout


@pytest.fixture(scope="module")
def facts(output: str) -> dict[str, Any]:
    return json.loads(output.rpartition("FACTS")[2])


def test_with_no_service_the_session_says_so_in_one_line(facts):
    line = facts["told"][0]
    assert line.startswith("No Tiled, no Prefect (")
    assert "\n" not in line
    assert line.endswith("Start with: bluesky-prefect up")


def test_a_line_of_the_log_has_its_time_and_level_before_prefect_is_imported(done):
    line = r"^\d\d:\d\d:\d\d\.\d{3} \| WARNING \| bluesky_prefect\.somewhere - the outbox is full$"
    assert re.search(line, done.stderr, re.MULTILINE)


def test_with_no_service_the_session_imports_neither_tiled_nor_prefect(facts):
    assert facts["modules"] == []


def test_with_no_service_scans_run_and_their_submissions_wait(facts):
    assert facts["waiting"] == [facts["uid"]]


def test_with_no_service_and_no_courier_the_run_is_recorded_and_the_session_says_that_it_waits(facts):
    assert facts["journals"] == [facts["uid"]]
    assert facts["told"][1].startswith("No courier is running, and this session starts none: runs are recorded")


def test_a_table_is_shown_and_no_plot_without_a_window(facts, output):
    assert "|   seq_num |       time |        det |" in output
    assert not facts["plots"]


def test_importing_the_profile_imports_nothing_heavy(tmp_path: Path):
    code = (
        "import sys, bluesky_prefect.session; "
        "print([name for name in ('prefect', 'tiled', 'matplotlib', 'bluesky') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
