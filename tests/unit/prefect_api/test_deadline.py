"""A request to Prefect has one deadline, wherever it hangs; real sockets, a real resolver."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import pytest
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    temporary_settings,
)

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import DeploymentMissing, PrefectUnavailable, Submission
from bluesky_prefect.courier import Forwarder
from bluesky_prefect.prefect_api import PrefectApi, prefect_errors
from tests.services.dripping import DrippingServer
from tests.services.limited_account import as_limited_account
from tests.services.prefect_process import wait_until

SUBMISSION = Submission("k", "w", "flow/one", "0123456789", {"scan_id": 7}, {})
TIMEOUT_S = 0.6
# What this machine, busy as it may be, takes beside that.
SLACK_S = 1.0


def requests() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bluesky-prefect-request"]


@contextmanager
def asking(url, timeout_s=TIMEOUT_S):
    with temporary_settings({PREFECT_API_URL: url}), PrefectApi(timeout_s) as api:
        assert api.client is not None
        yield api


@contextmanager
def given_up_in_time():
    began = time.monotonic()
    with pytest.raises(PrefectUnavailable, match=r"cannot be reached: ReadTimeout: no whole answer within 0\.6 s"):
        yield
    assert time.monotonic() - began < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("mode", ["headers", "body"])
def test_a_server_that_drips_is_given_up_in_time_and_its_connection_closed(mode):
    with closing(DrippingServer(mode)) as server, asking(f"http://127.0.0.1:{server.port}/api") as api:
        with given_up_in_time():
            api.create_flow_run(SUBMISSION)
        with given_up_in_time(), prefect_errors():
            api.client.read_flow_runs()
        wait_until(lambda: not requests() and not server.connections)


def test_a_connection_that_was_used_before_is_given_up_as_well():
    with closing(DrippingServer("whole")) as server, asking(f"http://127.0.0.1:{server.port}/api") as api:
        with pytest.raises(DeploymentMissing):
            api.check("flow/one")
        server.mode = "headers"
        with given_up_in_time():
            api.check("flow/one")
        wait_until(lambda: not requests() and not server.connections)
        server.mode = "whole"
        with pytest.raises(DeploymentMissing):
            api.check("flow/one")


def test_an_encrypted_connection_that_is_never_answered_is_given_up_in_time():
    with closing(DrippingServer("silent")) as server, asking(f"https://127.0.0.1:{server.port}/api") as api:
        began = time.monotonic()
        with pytest.raises(PrefectUnavailable, match="cannot be reached"):
            api.create_flow_run(SUBMISSION)
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
        wait_until(lambda: not requests())


@pytest.mark.skipif(os.getuid() != 0, reason="it needs a resolver of its own")
def test_a_name_look_up_that_hangs_is_given_up_in_time(tmp_path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.77.0.6\noptions timeout:20 attempts:1\n")
    program = (
        "import time\n"
        "from bluesky_prefect.core._exceptions import PrefectUnavailable\n"
        "from bluesky_prefect.prefect_api import PrefectApi\n"
        f"with PrefectApi({TIMEOUT_S}) as api:\n"
        "    assert api.client is not None\n"
        "    began = time.monotonic()\n"
        "    try:\n"
        "        api.check('flow/one')\n"
        "    except PrefectUnavailable as error:\n"
        "        print(f'{time.monotonic() - began:.1f} {error}')\n"
    )
    mounted = f'mount --bind {tmp_path}/resolv.conf "$(readlink -f /etc/resolv.conf)" && exec "$0" -c "$1"'
    environment = {**os.environ, "PREFECT_API_URL": "http://prefect.beamline.example:4200/api"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.77.0.6", 53))
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", mounted, sys.executable, program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert silent.recv(512)  # it was asked
    took_s, _, said = done.stdout.partition(" ")
    assert "no whole answer within 0.6 s" in said, done.stderr
    assert float(took_s) < TIMEOUT_S + SLACK_S


def test_a_proxy_of_the_environment_is_used_as_by_prefect_s_own_client(monkeypatch):
    with closing(DrippingServer("whole")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        with asking("http://prefect.invalid/api") as api, pytest.raises(DeploymentMissing):
            api.check("flow/one")
        monkeypatch.setenv("NO_PROXY", "prefect.invalid")
        with asking("http://prefect.invalid/api", 30) as api, pytest.raises(PrefectUnavailable, match="ConnectError"):
            api.check("flow/one")


def test_whose_certificates_are_trusted_prefect_s_settings_say(tmp_path):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with closing(DrippingServer("whole", tls=context)) as server:
        url = f"https://127.0.0.1:{server.port}/api"
        with asking(url, 30) as api, pytest.raises(PrefectUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            api.check("flow/one")
        for trusting in ({PREFECT_API_SSL_CERT_FILE: certificate}, {PREFECT_API_TLS_INSECURE_SKIP_VERIFY: True}):
            with temporary_settings(trusting), asking(url, 30) as api, pytest.raises(DeploymentMissing):
                api.check("flow/one")


# Asks while it may start no thread, and when it may again.
_SCARCE = """
import resource, threading
from bluesky_prefect.core._exceptions import BlueskyPrefectError
from bluesky_prefect.prefect_api import PrefectApi

def ask():
    try:
        api.check("flow/one")
    except BlueskyPrefectError as error:
        print(type(error).__name__, error, flush=True)

with PrefectApi(5) as api:
    assert api.client is not None
    before = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, before[1]))
    ask()
    resource.setrlimit(resource.RLIMIT_NPROC, before)
    ask()
"""


@pytest.mark.parametrize(("mode", "then"), [("whole", "DeploymentMissing"), ("body", "PrefectUnavailable")])
def test_without_a_thread_nothing_is_asked_without_a_deadline(mode, then):
    with closing(DrippingServer(mode)) as server:
        environment = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{server.port}/api", "HOME": "/nonexistent"}
        done = subprocess.run(
            [*as_limited_account(), sys.executable, "-W", "ignore", "-c", _SCARCE],
            env={**environment, "PREFECT_HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    refused, asked = done.stdout.splitlines()
    assert refused.startswith("PrefectUnavailable"), done.stderr
    assert "cannot be reached: ConnectError: can't start new thread" in refused
    assert asked.startswith(then)


@pytest.mark.parametrize("refusal", ["", "can't create new thread at interpreter shutdown"])
def test_requests_are_made_also_while_the_interpreter_ends(refusal):
    program = (
        "import atexit, threading\n"
        "from bluesky_prefect.core._exceptions import DeploymentMissing\n"
        "from bluesky_prefect.prefect_api import PrefectApi\n"
        "api = PrefectApi(5).__enter__()\n"
        "assert api.client is not None\n"
        "def last():\n"
        "    def refuse(_): raise RuntimeError(refusal)\n"
        f"    if refusal := {refusal!r}:\n"  # as Python 3.12 and later do by themselves
        "        threading.Thread.start = refuse\n"
        "    try:\n"
        "        api.check('flow/one')\n"
        "    except DeploymentMissing:\n"
        "        print('asked')\n"
        "atexit.register(last)\n"
    )
    with closing(DrippingServer("whole")) as server:
        environment = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{server.port}/api"}
        command = [sys.executable, "-W", "ignore", "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "asked\n", done.stderr


def test_a_session_whose_prefect_drips_ends_in_time_and_keeps_its_runs(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(SUBMISSION)
    settings = Settings(state_directory=tmp_path, request_timeout_s=TIMEOUT_S)
    with closing(DrippingServer("headers")) as server:
        forwarder = Forwarder([outbox], settings, connect=lambda: asking(f"http://127.0.0.1:{server.port}/api"))
        forwarder.start()
        wait_until(lambda: outbox.entries()[0].attempts >= 2)
        wait_until(lambda: server.connections)
        began = time.monotonic()
        assert forwarder.close(timeout_s=10)
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
    [entry] = outbox.entries()
    assert entry.reason.endswith("cannot be reached: ReadTimeout: no whole answer within 0.6 s.")
    outbox.close()
