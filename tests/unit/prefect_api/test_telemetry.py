"""Prefect sends no usage data from a session, and says nothing of them at its prompt, unless the user wants that."""

import os
import sys

import pexpect
import pytest

from bluesky_prefect.core import decline_telemetry

IMPORT = """
import sys
from bluesky_prefect.prefect_api import PrefectApi
with PrefectApi(1.0):
    print("imported:", "prefect.settings" in sys.modules)
"""


@pytest.mark.parametrize(("decided", "then"), [({}, "1"), ({"DO_NOT_TRACK": "0"}, "0"), ({"DO_NOT_TRACK": ""}, "")])
def test_what_the_user_has_decided_stays(decided, then):
    decline_telemetry(decided)
    assert decided == {"DO_NOT_TRACK": then}


def test_a_new_user_s_terminal_shows_no_notice(tmp_path):
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    # Without what tells Prefect that this is CI, where it shows none anyway.
    home = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    process = pexpect.spawn(sys.executable, ["-c", IMPORT], timeout=120, env={**kept, **home}, encoding="utf-8")
    shown = process.read()
    process.close()
    assert "imported: True" in shown
    assert "usage data" not in shown
