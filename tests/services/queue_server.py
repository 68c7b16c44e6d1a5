"""A queue server: a real RE Manager with its worker, on the Redis server of this machine."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import redis
from bluesky_queueserver import ZMQCommSendThreads

from tests.conftest import missing_service
from tests.services.prefect_process import wait_until

_REDIS = "127.0.0.1:6379"
# Of a worker that imports all that a session needs, on a busy machine.
_OPEN_TIMEOUT_S = 120.0
_PLAN_TIMEOUT_S = 150.0


class QueueServer:
    """An RE Manager on loopback, driven as its clients drive it, with keys of its own in Redis.

    Parameters
    ----------
    startup : Path
        Directory of the startup files.
    directory : Path
        Where its log goes, and what it notes about plans and devices.
    environment : dict
        What its processes have in their environment beside this one's.
    options : str
        Further options of ``start-re-manager``.
    """

    def __init__(self, startup: Path, directory: Path, environment: dict[str, str], *options: str) -> None:
        self._redis = redis.Redis.from_url(f"redis://{_REDIS}")
        self._prefix = f"bluesky_prefect_{secrets.token_hex(4)}"
        self._log = directory / "re-manager.log"
        control, info = _free_addresses(2)
        command = [
            Path(sys.executable).with_name("start-re-manager"),
            f"--startup-dir={startup}",
            f"--existing-plans-devices={directory}",
            f"--redis-addr={_REDIS}",
            f"--redis-name-prefix={self._prefix}",
            f"--zmq-control-addr={control}",
            f"--zmq-info-addr={info}",
            *options,
        ]
        self._require_redis()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._client = ZMQCommSendThreads(zmq_server_address=control, timeout_recv=30_000, raise_exceptions=True)
        try:
            wait_until(self._answers, _OPEN_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """All that manager and worker have printed."""
        return self._log.read_text()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a request, which may be a refusal."""
        answer = self._client.send_message(method=method, params=parameters)
        assert isinstance(answer, dict)
        return answer

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a request that must succeed."""
        answer = self.ask(method, **parameters)
        assert answer["success"], answer["msg"]
        return answer

    def open_environment(self) -> None:
        """Have a worker ready for plans, and nothing in the queue."""
        if not self.ask("status")["worker_environment_exists"]:
            self.do("environment_open")
            self.wait_for("idle", _OPEN_TIMEOUT_S)
            assert self.ask("status")["worker_environment_exists"], self.log[-3000:]
        self.do("queue_clear")

    def submit(self, plan: str, *args: Any, group: str = "primary", **kwargs: Any) -> dict[str, Any]:
        """Put a plan at the end of the queue, as a user of a group; return the answer."""
        item = {"item_type": "plan", "name": plan, "args": args, "kwargs": kwargs}
        return self.ask("queue_item_add", item=item, user="tester", user_group=group)

    def run(self, *plans: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Queue plans, run the queue, and return what came of each, in order."""
        for plan, *args in plans:
            answer = self.submit(plan, *args)
            assert answer["success"], answer["msg"]
        self.do("queue_start")
        self.wait_for("idle")
        return self.results()[-len(plans) :]

    def begin(self, plan: str, *args: Any, **kwargs: Any) -> str:
        """Queue a plan, start the queue, and return the uid of the run that it opens."""
        assert self.submit(plan, *args, **kwargs)["success"]
        self.do("queue_start")
        [run] = wait_until(lambda: self.ask("re_runs", option="open")["run_list"])
        return run["uid"]

    def results(self) -> list[dict[str, Any]]:
        """Return what came of all plans that have ended."""
        return [item["result"] for item in self.do("history_get")["items"]]

    def wait_for(self, state: str, timeout_s: float = _PLAN_TIMEOUT_S) -> None:
        """Wait until the manager is in a state, such as ``idle`` or ``paused``."""
        wait_until(lambda: self.ask("status")["manager_state"] == state, timeout_s)

    def close(self) -> None:
        """End manager and worker, and delete their keys."""
        self._client.close()
        self._client._ctx.term()  # which it leaves to the garbage collector, and pyzmq warns of that
        with_children = [self._process.pid, *self._children()]
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        finally:
            for pid in with_children:
                _kill(pid)
            self._process.wait(30)
            keys = list(self._redis.scan_iter(f"{self._prefix}_*"))
            if keys:
                self._redis.delete(*keys)
            self._redis.close()

    def _children(self) -> list[int]:
        try:
            return [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log[-3000:]
        return self.ask("ping")["manager_state"] == "idle"

    def _require_redis(self) -> None:
        try:
            self._redis.ping()
        except redis.RedisError as error:
            self._redis.close()
            missing_service(f"a Redis server at {_REDIS}: {error}")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()
