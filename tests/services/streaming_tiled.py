"""A Tiled server with a streaming cache on a Redis server, both a test's own to kill and start again."""

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.services.brokers import RedisServer, free_port
from tests.services.prefect_process import wait_until

KEY = secrets.token_hex(32)


class StreamingTiled:
    """A Tiled server that tells of updates, on a free port of loopback.

    Parameters
    ----------
    folder : Path
        Where it keeps its files.
    streams : bool
        Whether it has a streaming cache.

    Attributes
    ----------
    cache : RedisServer or None
        The streaming cache.
    """

    def __init__(self, folder: Path, *, streams: bool = True) -> None:
        self.folder = folder
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.cache = RedisServer(folder) if streams else None
        self._log = folder / "tiled.log"
        self._write_config(self.cache)
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
        self._write_config(self.cache if streams else None)
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

    def close(self) -> None:
        """End both."""
        self._process.terminate()
        self._process.wait(30)
        if self.cache:
            self.cache.close()

    def _write_config(self, cache: RedisServer | None) -> None:
        catalog = {
            "uri": f"sqlite:///{self.folder / 'catalog.db'}",
            "writable_storage": [str(self.folder / "data"), f"duckdb:///{self.folder / 'tables.duckdb'}"],
            "init_if_not_exists": True,
        }
        content: dict[str, object] = {
            "trees": [{"path": "/", "tree": "catalog", "args": catalog}],
            "authentication": {"single_user_api_key": KEY},
        }
        if cache:
            content["streaming_cache"] = {"uri": cache.uri}
        (self.folder / "config.yml").write_text(json.dumps(content))  # JSON is YAML

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.uri}/api/v1/", timeout=10, verify=False).is_success
        except httpx.TransportError:
            return False
