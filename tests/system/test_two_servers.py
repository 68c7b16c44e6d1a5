"""One outbox, two Prefect servers: each gets what was meant for it."""

from contextlib import ExitStack

import pytest

from tests.services.prefect_process import PrefectProcess, wait_until
from tests.system.session import Acquisition

DEPLOYMENT = "my-workflow/local"


@pytest.fixture(scope="module")
def servers(tmp_path_factory, made_databases):
    with ExitStack() as made:
        folders = [tmp_path_factory.mktemp(name) for name in ("prefect-a", "prefect-b")]
        started = [PrefectProcess(folder, databases=made_databases) for folder in folders]
        for server in started:
            made.callback(server.kill)
            server.start()
            server.deploy(DEPLOYMENT, "ref", ref={})
        yield started


@pytest.fixture
def session(tmp_path):
    """Start a session that is set to a server; all of them have one state directory."""
    with ExitStack() as made:

        def start(server: PrefectProcess) -> Acquisition:
            acquisition = Acquisition(tmp_path / "state", {"PREFECT_API_URL": server.url}, DEPLOYMENT)
            made.callback(lambda: acquisition.process.poll() is None and acquisition.kill())
            return acquisition

        yield start


def test_a_backlog_for_one_server_is_not_sent_to_another_by_the_next_session(session, servers):
    a, b = servers
    a.kill()
    of_a = session(a)
    meant_for_a = of_a.count(3)
    of_a.kill()
    of_b = session(b)
    meant_for_b = of_b.count(2)
    wait_until(lambda: of_b.outbox_counts() == (3, 2, 0))
    assert "Still to be sent" not in of_b.end()
    assert len(b.flow_runs(*meant_for_b)) == 2
    assert b.flow_runs(*meant_for_a) == []
    a.start()
    again = session(a)
    wait_until(lambda: again.outbox_counts() == (0, 5, 0))
    assert [flow_run["parameters"]["ref"] for flow_run in a.flow_runs(*meant_for_a)] == meant_for_a
    assert a.flow_runs(*meant_for_b) == []
