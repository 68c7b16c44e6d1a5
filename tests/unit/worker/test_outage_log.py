"""What a worker's log says of an outage, and what it does not."""

import logging

import pytest

from bluesky_prefect.worker._outage_log import OutageLog, quiet_outages

REFUSED = ConnectionRefusedError(111, "Connect call failed")


@pytest.fixture(autouse=True)
def _seen(monkeypatch):
    # Prefect's own set-up of logging, which another test may have brought, keeps its lines to itself.
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)


@pytest.fixture
def outage_log():
    return OutageLog("http://user:secret@prefect.example/api")


def test_an_outage_is_told_once_and_its_end_once(outage_log, caplog):
    for _ in range(2):
        outage_log.answered()
        for _ in range(3):
            outage_log.failed(REFUSED)
        outage_log.answered()
    where = "Prefect at http://prefect.example/api"
    assert [record.getMessage()[: len(where) + 7] for record in caplog.records] == [
        f"{where} cannot",
        f"{where} answer",
    ] * 2
    assert "secret" not in caplog.text


@pytest.mark.parametrize("error", [None, RuntimeError("HTTP 403")], ids=["closed", "web sockets refused"])
def test_a_server_that_is_there_is_no_outage(outage_log, caplog, error):
    outage_log.failed(error)
    outage_log.answered()
    assert caplog.records == []


def test_what_prefect_says_of_it_for_each_flow_run_is_held_back_and_nothing_else(caplog):
    quiet_outages()
    logger = logging.getLogger("prefect.FlowRunSuspendingObserver")
    logger.warning("The %s websocket failed with an exception. Switching to polling mode.", "observer")
    logger.warning("The flow run is to be suspended")
    assert [record.getMessage() for record in caplog.records] == ["The flow run is to be suspended"]
