"""Mending a dead letter from the command line while the session that made it goes on."""

from contextlib import closing

import pytest
from typer.testing import CliRunner

from bluesky_prefect.cli._app import app
from tests.services.prefect_process import wait_until
from tests.services.prefect_stand_in import PrefectStandIn
from tests.system.session import Acquisition


@pytest.fixture
def prefect():
    with closing(PrefectStandIn().start()) as stand_in:
        yield stand_in


@pytest.fixture
def acquisition(tmp_path, prefect):
    acquisition = Acquisition(tmp_path / "state", {"PREFECT_API_URL": prefect.url}, "tomo/gpu")
    yield acquisition
    acquisition.kill()


def test_a_dead_letter_is_sent_once_its_deployment_is_mended_and_it_is_retried(acquisition, prefect, tmp_path):
    def outbox(command: str) -> str:
        arguments = ["outbox", command, uid[:8], "--state-directory", str(tmp_path / "state")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    prefect.required = ["ref", "sample"]
    [uid] = acquisition.count(1)
    wait_until(lambda: acquisition.outbox_counts() == (0, 0, 1))
    assert "tomo/gpu requires sample, which nothing fills" in outbox("show")
    prefect.required = ["ref"]
    outbox("retry")
    wait_until(lambda: acquisition.outbox_counts() == (0, 1, 0))
    assert list(prefect.created) == [f"{uid}:tomo/gpu"]
