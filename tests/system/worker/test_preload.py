"""What the default list of modules leaves for a flow run to import."""

import json
import os
import subprocess
import sys

from bluesky_prefect.worker.forkserver._handle import SINGLE_THREADED
from tests.services.outside import cat_facts, open_meteo
from tests.system.session import Acquisition

PROCESS = """
import json, sys
from bluesky_prefect.worker._job_variables import PRELOAD
from bluesky_prefect.worker.forkserver._preload import preload

preload(PRELOAD)
before = set(sys.modules)
from bluesky_prefect.flows import data_validation, find_peak, my_workflow

my_workflow(sys.argv[1])
data_validation(sys.argv[1])
find_peak(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# A few are found by name alone, and are a millisecond each.
MOST = 15


def test_the_flows_of_this_project_find_everything_imported(stack, tmp_path):
    weather, facts = open_meteo(), cat_facts()
    outside = {
        "BLUESKY_PREFECT_WEATHER_ARCHIVE_URL": weather.url,
        "BLUESKY_PREFECT_WEATHER_FORECAST_URL": weather.url,
        "BLUESKY_PREFECT_CAT_FACT_URL": facts.url,
        "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(tmp_path / "exports"),
    }
    session = Acquisition(tmp_path / "session", stack.environment(), "my-workflow/local")
    try:
        command = [sys.executable, "-c", PROCESS, session.run("opt-out")]
        environment = {**os.environ, **SINGLE_THREADED, **stack.environment(), **outside}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        session.kill()
        weather.close()
        facts.close()
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    assert len(imported) <= MOST, imported
