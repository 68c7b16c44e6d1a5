"""What is known of the flow run that makes a result where Prefect does not tell."""

import asyncio
import threading

import pytest

from bluesky_prefect.flows.common import _made_by


class FlowRun:
    """A flow run as Prefect's runtime tells it."""

    @staticmethod
    def get_id():
        return "0198c2f4"

    @staticmethod
    def get_name():
        return "scan-7-count"


@pytest.fixture(autouse=True)
def flow_run(monkeypatch):
    monkeypatch.setattr(_made_by, "flow_run", FlowRun)
    monkeypatch.setattr(_made_by, "MAX_S", 0.1)


def assert_known_here(made):
    assert (made.flow_run_id, made.flow_run_name, made.deployment) == ("0198c2f4", "scan-7-count", None)


def test_whatever_prefects_client_raises_is_a_warning(monkeypatch, caplog):
    def refuse(_):
        raise RuntimeError("Failed to reach API")

    monkeypatch.setattr(_made_by, "_asked", refuse)
    assert_known_here(_made_by.made_by())
    assert "Prefect does not tell what made this (flow run 0198c2f4): RuntimeError: Failed to reach API" in caplog.text


@pytest.mark.parametrize("ask", [_made_by.made_by, lambda: asyncio.run(_made_by.made_by_in_time())])
def test_a_prefect_that_hangs_is_not_waited_for(ask, monkeypatch, caplog):
    release = threading.Event()
    monkeypatch.setattr(_made_by, "_asked", lambda _: release.wait(30))
    assert_known_here(ask())
    assert "Prefect does not tell in 0.1 s what made this" in caplog.text
    release.set()
