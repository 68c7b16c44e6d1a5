"""A Prefect server of a test's own, which it may kill, stop and start again."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from bluesky_prefect.stack import StackInfo
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._prefect import PrefectServer
from tests.services.made_databases import MadeDatabases
from tests.services.started_with import EVENTS_AT_ONCE

# Of the servers here none has TLS. A request of httpx's own would read the certificates of all the world's authorities
# each time: 25 ms of the processor at each look of `wait_until`.
_WITHOUT_TLS = {"verify": False}


def wait_until(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return the first true answer of `what`; fail if there is none in time."""
    deadline, pause_s = time.monotonic() + timeout_s, 0.05
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.3)  # most of what is asked costs a server something
    return answer


def prefect_settings(stack: StackInfo) -> dict[Any, str]:
    """Return the settings that make this process's Prefect a client of the stack's, for ``temporary_settings``."""
    return {PREFECT_API_URL: stack.prefect_api_url, PREFECT_API_AUTH_STRING: user_of(stack)}


def user_of(stack: StackInfo) -> str:
    """Return user and password of the stack's Prefect."""
    return stack.prefect_auth_string.get_secret_value()


def ask(stack: StackInfo, method: str, path: str, **content: Any) -> httpx.Response:
    """Send a request to the stack's Prefect as its user; see `_send`."""
    return _send(method, stack.prefect_api_url + path, headers=stack.prefect_headers, **content)


def post(api_url: str, path: str, *, user: str | None = None, **content: Any) -> Any:
    """Post to a Prefect API; see `_send`."""
    auth = tuple(user.split(":", 1)) if user else None
    return _send("POST", api_url + path, auth=auth, json=content).raise_for_status().json()


def _send(method: str, url: str, **content: Any) -> httpx.Response:
    """Send a request, again where a server on SQLite says that its database is locked, or says it late.

    What is sent here may be sent twice.
    """

    def answer() -> httpx.Response | None:
        try:
            response = httpx.request(method, url, timeout=30, **_WITHOUT_TLS, **content)
        except httpx.ReadTimeout:
            return None
        return None if response.status_code == 503 else response

    return wait_until(answer, timeout_s=120)


class PrefectProcess:
    """A Prefect server on a free port, as the local stack runs it, with its database in `home`.

    With `user`, given as ``name:password``, it wants basic authentication. With `database_url`, its database is there
    and not in an SQLite file. With `databases`, it starts from one of those. `environment` goes before all that.
    """

    def __init__(
        self,
        home: Path,
        *,
        user: str | None = None,
        database_url: str | None = None,
        databases: MadeDatabases | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._home = home
        self._environment = environment
        self._database_url = database_url
        self._user = user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen | None = None
        if databases is not None:
            databases.for_prefect(home)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return StackPaths(self._home).prefect / "prefect.db"

    def start(self) -> None:
        # As the local stack runs it: with Prefect's defaults, SQLite stalls under the service that marks late runs.
        server = PrefectServer(StackPaths(self._home), self.port, self._user)
        server.prepare()
        command = server.command()
        environment = {**os.environ, **server.environment(), **EVENTS_AT_ONCE}
        if self._database_url:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self._database_url
        environment.update(self._environment)
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_until(self._healthy)

    def send_signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def deploy(self, name: str, *required: str, **properties: dict[str, Any]) -> None:
        """Make a deployment (without a work pool: its flow runs stay Scheduled)."""
        flow, _, deployment = name.partition("/")
        flow_id = self._post("/flows/", name=flow)["id"]
        schema = {"type": "object", "properties": properties, "required": list(required)}
        self._post("/deployments/", name=deployment, flow_id=flow_id, parameter_openapi_schema=schema)

    def make_work_pool(self, name: str) -> None:
        """Make a work pool for process workers."""
        self._post("/work_pools/", name=name, type="process")

    def flow_runs(self, *uids: str) -> list[dict[str, Any]]:
        """Return the flow runs of these runs, found by tag."""
        found = self._post("/flow_runs/filter", flow_runs={"tags": {"any_": [f"uid:{uid}" for uid in uids]}})
        return sorted(found, key=lambda flow_run: flow_run["created"])

    def _post(self, path: str, **content: Any) -> Any:
        return post(self.url, path, user=self._user, **content)

    def _healthy(self) -> bool:
        assert self._process.poll() is None, (self._home / "server.log").read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/health", timeout=5, **_WITHOUT_TLS).status_code == 200
        except httpx.HTTPError:
            return False
