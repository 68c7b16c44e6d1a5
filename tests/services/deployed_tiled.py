"""Tiled as a facility runs it, from deploy/: on PostgreSQL, with a key and a streaming cache."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import httpx

from tests.services.facility import DEPLOY, variables
from tests.services.password_postgres import PasswordPostgres
from tests.services.prefect_process import wait_until
from tests.services.streaming_tiled import free_port


class DeployedTiled:
    """A Tiled server on a free port of loopback.

    Parameters
    ----------
    folder : Path
        For its files.
    postgres : PasswordPostgres
        With a user ``tiled`` and its databases.
    streaming_cache : str
        Address of a database of a Redis server.

    Attributes
    ----------
    key : str
        Its key.
    """

    def __init__(self, folder: Path, postgres: PasswordPostgres, streaming_cache: str) -> None:
        self.key = secrets.token_hex(32)
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.log = folder / "tiled.log"
        (folder / "files").mkdir()
        environment = {
            **os.environ,
            **variables(DEPLOY / "tiled" / "tiled.env"),
            "TILED_CONFIG": str(DEPLOY / "tiled" / "config.yml"),
            "TILED_SINGLE_USER_API_KEY": self.key,
            "POSTGRESQL_SERVER": postgres.address,
            "PGPASSFILE": str(postgres.passfile),
            "STREAMING_CACHE": streaming_cache,
            "TILED_FILES": str(folder / "files"),
            "NO_COLOR": "1",
        }
        command = [str(Path(sys.executable).with_name("uvicorn")), "--factory", "tiled.server.app:app_factory"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        try:
            wait_until(self._answers, 120)
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its clients."""
        return {"BLUESKY_PREFECT_TILED_URI": self.uri, "TILED_API_KEY": self.key}

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-5000:]
        try:
            return httpx.get(f"{self.uri}/api/v1/", timeout=10, verify=False).is_success
        except httpx.TransportError:
            return False
