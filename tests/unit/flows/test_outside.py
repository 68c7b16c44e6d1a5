"""Services on the internet cost what they may, whatever they do."""

import contextlib
import socket
import subprocess
import sys
import time

import pytest

from bluesky_prefect.core import ServiceUnavailable
from bluesky_prefect.flows.common._outside import get_json
from tests.services.outside import cat_facts

BUDGET_S = 1.0


@pytest.fixture
def service():
    service = cat_facts()
    yield service
    service.close()


@contextlib.contextmanager
def at_most(seconds):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def test_an_answer_comes_back_as_data(service):
    assert get_json(f"{service.url}/fact", {"max_length": 140}, timeout_s=5)["fact"].startswith("A cat")
    assert service.requests == [("/fact", {"max_length": "140"})]


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_service_that_hangs_or_drips_is_left_at_the_deadline(service, mode):
    service.mode = mode
    with at_most(BUDGET_S + 0.5), pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1: no answer within 1 s"):
        get_json(f"{service.url}/fact", timeout_s=BUDGET_S)


def test_server_errors_are_tried_again_briefly(service):
    service.mode = "500"
    with at_most(BUDGET_S + 0.5), pytest.raises(ServiceUnavailable, match="HTTP status 500"):
        get_json(f"{service.url}/fact", timeout_s=BUDGET_S)
    assert len(service.requests) == 3


def test_a_server_that_recovers_answers(service):
    service.mode = "500"
    service.on_request = lambda: setattr(service, "mode", "well") if len(service.requests) == 2 else None
    assert "fact" in get_json(f"{service.url}/fact", timeout_s=5)


def test_a_refusal_is_not_tried_again_and_says_why_on_one_line(service):
    service.mode = "400"
    with pytest.raises(ServiceUnavailable, match=r"HTTP status 400 \(Out of\\nallowed range\)"):
        get_json(f"{service.url}/fact", timeout_s=BUDGET_S)
    assert len(service.requests) == 1


def test_an_answer_that_is_not_json_is_none(service):
    service.mode = "garbage"
    with pytest.raises(ServiceUnavailable, match="not JSON"):
        get_json(f"{service.url}/fact", timeout_s=BUDGET_S)


def test_a_closed_port_is_no_answer():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/fact"
        with at_most(BUDGET_S + 0.5), pytest.raises(ServiceUnavailable, match="refused"):
            get_json(url, timeout_s=BUDGET_S)


@pytest.mark.parametrize("url", ["http://", "not a url", "ftp://127.0.0.1/", "http://[::1"])
def test_an_address_that_is_none_is_no_answer(url):
    with pytest.raises(ServiceUnavailable):
        get_json(url, timeout_s=BUDGET_S)


HANGING_LOOK_UP = """
import socket, time
socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
from bluesky_prefect.core._exceptions import ServiceUnavailable
from bluesky_prefect.flows.common._outside import get_json
begun = time.monotonic()
try:
    get_json("https://api.open-meteo.com/v1/forecast", timeout_s=0.5)
except ServiceUnavailable as error:
    print(time.monotonic() - begun, error)
"""


def test_a_name_look_up_that_hangs_costs_no_more_and_does_not_keep_the_process():
    # It cannot be cancelled, so nothing but a process of its own shows that it is really left behind.
    done = subprocess.run(
        [sys.executable, "-c", HANGING_LOOK_UP], capture_output=True, text=True, timeout=30, check=True
    )
    seconds, _, error = done.stdout.strip().partition(" ")
    assert float(seconds) < 1.5
    assert error == "api.open-meteo.com: no answer within 0.5 s"
    assert done.stderr == ""
