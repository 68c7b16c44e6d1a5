"""A Tiled server with a streaming cache on a Redis server, both a test's own to kill and start again."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import missing_service
from tests.services.prefect_process import wait_until

KEY = secrets.token_hex(32)


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class StreamingTiled:
    """A Tiled server that tells of updates, on a free port of loopback.

    Parameters
    ----------
    folder : Path
        Where it keeps its files.
    streams : bool
        Whether it has a streaming cache.
    """

    def __init__(self, folder: Path, *, streams: bool = True) -> None:
        self.folder = folder
        self.uri = f"http://127.0.0.1:{free_port()}"
        self._redis_port = free_port()
        self._streams = streams
        self._log = folder / "tiled.log"
        (folder / "config.yml").write_text(json.dumps(self._config(streams)))  # JSON is YAML
        if streams:
            self.start_cache()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its clients."""
        return {"BLUESKY_PREFECT_TILED_URI": self.uri, "TILED_API_KEY": KEY}

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [Path(sys.executable).with_name("tiled"), "serve", "config", self.folder / "config.yml"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*map(str, command), "--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NO_COLOR": "1", "TILED_SINGLE_USER_API_KEY": KEY},
            )
        wait_until(self._answers)

    def restart(self, *, streams: bool) -> None:
        """Kill the server and start it again, with or without a streaming cache; its cache stays."""
        self.kill()
        (self.folder / "config.yml").write_text(json.dumps(self._config(streams)))
        self.start()

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._process.kill()
        self._process.wait(30)

    def hang(self) -> None:
        """Have it answer nobody, and refuse nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End that."""
        self._process.send_signal(signal.SIGCONT)

    def start_cache(self) -> None:
        """Start the Redis server, which remembers nothing of an earlier one."""
        if not (program := shutil.which("redis-server")):
            missing_service("redis-server, which Debian's package of that name has")
        options = ["--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self._redis = subprocess.Popen([program, "--port", str(self._redis_port), *options], stdout=subprocess.DEVNULL)
        wait_until(self._cache_answers)

    def kill_cache(self) -> None:
        """End the Redis server, with all that it knows."""
        self._redis.kill()
        self._redis.wait(30)

    def close(self) -> None:
        """End both."""
        self._process.terminate()
        self._process.wait(30)
        if self._streams:
            self.kill_cache()

    def _config(self, streams: bool) -> dict[str, object]:
        catalog = {
            "uri": f"sqlite:///{self.folder / 'catalog.db'}",
            "writable_storage": [str(self.folder / "data"), f"duckdb:///{self.folder / 'tables.duckdb'}"],
            "init_if_not_exists": True,
        }
        content: dict[str, object] = {
            "trees": [{"path": "/", "tree": "catalog", "args": catalog}],
            "authentication": {"single_user_api_key": KEY},
        }
        if streams:
            content["streaming_cache"] = {"uri": f"redis://127.0.0.1:{self._redis_port}/0"}
        return content

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.uri}/api/v1/", timeout=10, verify=False).is_success
        except httpx.TransportError:
            return False

    def _cache_answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._redis_port), 1).close()
        except OSError:
            return False
        return True
