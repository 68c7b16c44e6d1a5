"""Services on the internet cost what they may, whatever they do."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from bluesky_prefect.core import ServiceUnavailable
from bluesky_prefect.flows.common import _outside as outside
from tests.services.outside import cat_facts

BUDGET_S = 1.0


def get_json(*args, **kwargs):
    """Ask, and wait for the end of the loop too, as a flow run does."""
    return asyncio.run(outside.get_json(*args, **kwargs))


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
        with pytest.raises(ServiceUnavailable, match="refused"):
            get_json(url, timeout_s=60 * BUDGET_S)


@pytest.mark.parametrize("url", ["http://", "not a url", "ftp://127.0.0.1/", "http://[::1"])
def test_an_address_that_is_none_is_no_answer(url):
    with pytest.raises(ServiceUnavailable):
        get_json(url, timeout_s=BUDGET_S)


@pytest.fixture
def looked_up(monkeypatch):
    """Names that somebody looks up, and whether on a daemon thread; all are this machine's."""
    names = []
    real = socket.getaddrinfo

    def look_up(host, *args, **kwargs):
        names.append((host, threading.current_thread().daemon))
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def test_a_name_is_looked_up_once_and_not_by_the_loop_s_own_threads(service, looked_up):
    assert "fact" in get_json(service.url.replace("127.0.0.1", "facts.example"), timeout_s=5)
    assert looked_up == [("facts.example", True)]


def test_so_is_the_name_of_a_server_that_it_is_redirected_to(service, looked_up):
    service.redirect = service.url.replace("127.0.0.1", "elsewhere.example")
    assert "fact" in get_json(service.url, timeout_s=5)
    assert looked_up == [("127.0.0.1", True), ("elsewhere.example", True)]


def test_so_is_the_name_of_a_proxy_and_no_other(service, looked_up, monkeypatch):
    monkeypatch.setenv("http_proxy", service.url.replace("127.0.0.1", "proxy.example"))
    assert "fact" in get_json("http://facts.example/fact", timeout_s=5)
    assert looked_up == [("proxy.example", True)]


def test_a_name_that_nobody_knows_is_no_answer(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServiceUnavailable, match=r"facts\.example: .*Name or service not known"):
        get_json("http://facts.example/fact", timeout_s=BUDGET_S)


@pytest.mark.parametrize("body", [b"x" * (outside._MAX_BYTES + 1), b"[" * 100_000])
def test_an_answer_that_is_too_long_or_too_deep_is_none(service, body):
    service.body = body
    with pytest.raises(ServiceUnavailable, match=r"longer than 1048576 bytes|not JSON"):
        get_json(service.url, timeout_s=5)


HANGING_LOOK_UP = """
import asyncio, socket, time
def getaddrinfo(*args, **kwargs):
    time.sleep(60)
socket.getaddrinfo = getaddrinfo
from bluesky_prefect.core._exceptions import ServiceUnavailable
from bluesky_prefect.flows.common._outside import get_json
begun = time.monotonic()
try:
    asyncio.run(get_json("https://api.open-meteo.com/v1/forecast", timeout_s=0.5))
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
