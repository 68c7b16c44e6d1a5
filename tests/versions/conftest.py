"""A Prefect server of any version: this environment's, or that of an interpreter named in SERVER_PYTHON."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tests.services.prefect_process import wait_until

DEPLOYMENT = "version-test/idle"
USER = "beamline:secret"


class AnyPrefectServer:
    """``prefect server start`` of an interpreter's Prefect, with a password, as Prefect itself runs it."""

    def __init__(self, python: str, home: Path) -> None:
        self._log = home / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_API_AUTH_STRING": USER,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_ENABLED": "false",
        }
        command = [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        wait_until(self._answers, timeout_s=120)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/health", auth=tuple(USER.split(":")), timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = AnyPrefectServer(os.environ.get("SERVER_PYTHON", sys.executable), tmp_path_factory.mktemp("prefect"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def deployment(server):
    """This process's Prefect is a client of the server, which has a deployment that nobody works on."""
    settings = {PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: USER}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        flow, _, name = DEPLOYMENT.partition("/")
        schema = {"type": "object", "properties": {"ref": {"type": "string"}}, "required": ["ref"]}
        client.create_deployment(client.create_flow_from_name(flow), name, parameter_openapi_schema=schema)
        yield DEPLOYMENT
