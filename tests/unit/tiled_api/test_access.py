"""What a worker knows before it takes a flow run, without a Tiled server."""

import os
import subprocess
import sys

import pytest

# An entry of None makes an import fail as if the package were not there: a base install.
CODE = """
import sys
sys.modules[sys.argv[1]] = None
from bluesky_prefect.tiled_api import flows_problem
print(flows_problem())
"""


def problem(missing, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE, missing],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("missing", ["tiled", "matplotlib"])
def test_without_what_the_flows_import_the_problem_names_the_remedy(missing):
    said = problem(missing, BLUESKY_PREFECT_TILED_URI="http://127.0.0.1:9")
    assert missing in said
    assert 'pip install "bluesky-prefect[flows]"' in said


def test_where_no_tiled_is_named_flows_have_nothing_to_do_with_it():
    assert problem("tiled") == ""
