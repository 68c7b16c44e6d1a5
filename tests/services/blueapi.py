"""A blueapi server of its extra environment, with the files that the how-to shows."""

import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import missing_service
from tests.services.prefect_process import wait_until

_ROOT = Path(__file__).parents[2]
_COMMAND = _ROOT / ".venv-blueapi" / "bin" / "blueapi"
_PAGE = _ROOT / "docs" / "how-to" / "use-blueapi.md"
# Of a process that imports all of blueapi, and then of its worker, on a busy machine.
_START_TIMEOUT_S = 240.0
_FILES = ["hutch_plans.py", "hutch_devices.py", "blueapi.yaml"]


class Blueapi:
    """``blueapi serve`` on loopback, driven by its REST API.

    Parameters
    ----------
    directory : Path
        Where its files and its log go.
    environment : dict
        What its processes have in their environment beside this one's.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        if not _COMMAND.exists():
            missing_service("blueapi: 'make blueapi' makes its environment")
        self._log = directory / "blueapi.log"
        port = _free_port()
        for name, text in _files_of_the_page().items():
            (directory / name).write_text(text.replace("127.0.0.1:8025", f"127.0.0.1:{port}"))
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [_COMMAND, "-c", "blueapi.yaml", "serve"],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(directory), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._answers, _START_TIMEOUT_S)
            worker = self.get("environment")
            assert worker["initialized"], worker["error_message"]
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

    def get(self, path: str) -> Any:
        """Return what a resource is."""
        return self._client.get(f"/api/v1/{path}").raise_for_status().json()

    def begin(self, plan: str, **parameters: Any) -> str:
        """Begin a plan; return its task."""
        body = {"name": plan, "params": parameters, "instrument_session": "cm12345-1"}
        task = self._client.post("/api/v1/tasks", json=body).raise_for_status().json()["task_id"]
        self._client.put("/api/v1/worker/task", json={"task_id": task}).raise_for_status()
        return task

    def end(self, state: str, **reason: str) -> None:
        """Have the plan under way ended: ``STOPPING`` or ``ABORTING``."""
        self._client.put("/api/v1/worker/state", json={"new_state": state, **reason}).raise_for_status()

    def outcome(self, task: str) -> dict[str, Any]:
        """Return what came of a task, once it has ended."""
        return wait_until(lambda: (found := self.get(f"tasks/{task}"))["is_complete"] and found)["outcome"]

    def close(self) -> None:
        """End it as a service manager does."""
        self._client.close()
        left = _with_children(self._process.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        finally:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(30)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log[-3000:]
        try:
            return self._client.get("/healthz").is_success
        except httpx.ConnectError:
            return False


def _files_of_the_page() -> dict[str, str]:
    """Return the files that the page shows: each is named in the paragraph, or the heading, above it."""
    found = re.findall(r"`([a-z_]+\.(?:py|yaml))`[^`]*\n\n```(?:python|yaml)\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in found] == _FILES
    return dict(found)


def _with_children(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
