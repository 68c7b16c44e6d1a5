"""Prefect as a facility runs it, from deploy/: servers behind one address, background services, PostgreSQL, Redis."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import missing_service
from tests.services.brokers import free_port
from tests.services.prefect_process import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
_PREFECT = str(Path(sys.executable).with_name("prefect"))


class Facility:
    """Two Prefect servers, their background services, a Redis server and HAProxy, all on loopback.

    Parameters
    ----------
    folder : Path
        For their files.
    database_url : str
        An empty database on PostgreSQL.
    passfile : Path, optional
        Where its password is.

    Attributes
    ----------
    api_url : str
        The one address of the servers.
    user : str
        User and password, as ``name:password``.
    redis_password : str
        That of the Redis server.
    """

    def __init__(self, folder: Path, database_url: str, *, passfile: Path | None = None) -> None:
        self.folder = folder
        self.user = f"prefect:{secrets.token_hex(16)}"
        self.redis_password = secrets.token_hex(16)
        self._ports = {name: free_port() for name in ("redis", "haproxy", "server_1", "server_2")}
        self.api_url = f"http://127.0.0.1:{self._ports['haproxy']}/api"
        self._environment = {
            **os.environ,
            **variables(DEPLOY / "prefect" / "servers.env"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_UI_STATIC_DIRECTORY": str(folder / "ui"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
            "PREFECT_SERVER_API_AUTH_STRING": self.user,
            "PREFECT_API_AUTH_STRING": self.user,
            "PREFECT_REDIS_MESSAGING_URL": self.redis_url(0),
            "PREFECT_SERVER_DOCKET_URL": self.redis_url(0),
            "PGPASSFILE": str(passfile or folder / "no-pgpass"),
            "PREFECT_CLI_PROMPT": "false",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._start_all()
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its clients."""
        return {"PREFECT_API_URL": self.api_url, "PREFECT_API_AUTH_STRING": self.user}

    def redis_url(self, database: int) -> str:
        """Return the address of a database of the Redis server, password included."""
        return f"redis://:{self.redis_password}@127.0.0.1:{self._ports['redis']}/{database}"

    def start_server(self, number: int) -> None:
        """Start one of the two servers, and wait until the proxy sends requests to it."""
        name = f"server_{number}"
        port = self._ports[name]
        options = ["--no-services", "--host", "127.0.0.1", "--port", str(port)]
        self._start(name, [_PREFECT, "server", "start", *options])
        wait_until(lambda: self._answers(name, f"http://127.0.0.1:{port}/api"), 120)

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(30)

    def log(self, name: str) -> str:
        """Return what a process has written."""
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        """End all of it."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_all(self) -> None:
        redis, haproxy = _program("redis-server"), _program("haproxy")
        port, asks = self._ports["redis"], f"requirepass {self.redis_password}"
        # On its standard input: anybody could read a command line.
        self._start("redis", [redis, "-"], f'port {port}\nbind 127.0.0.1\nsave ""\ndir {self.folder}\n{asks}\n')
        subprocess.run(
            [_PREFECT, "server", "database", "upgrade", "--yes"],
            env=self._environment,
            check=True,
            capture_output=True,
        )
        for number in (1, 2):
            self.start_server(number)
        self._start("services", [_PREFECT, "server", "services", "start"])
        addresses = {"address": "haproxy", "server_1": "server_1", "server_2": "server_2"}
        places = {f"PREFECT_{name}".upper(): f"127.0.0.1:{self._ports[port]}" for name, port in addresses.items()}
        self._start("haproxy", [haproxy, "-f", str(DEPLOY / "haproxy" / "haproxy.cfg")], **places)
        wait_until(lambda: self._answers("haproxy", self.api_url))

    def _start(self, name: str, command: list[str], told: str = "", **more: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**self._environment, **more},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[name] = process
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(told.encode())

    def _answers(self, name: str, api_url: str) -> bool:
        assert self.processes[name].poll() is None, self.log(name)[-3000:]
        try:
            return httpx.get(f"{api_url}/health", timeout=5, verify=False).status_code == 200
        except httpx.HTTPError:
            return False


def _program(name: str) -> str:
    # Debian has it where only root's PATH leads.
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        missing_service(f"{name}, which Debian's package of that name has")
    return str(found)


def variables(path: Path) -> dict[str, str]:
    """Return what a file of variables holds."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
