"""A Prefect worker of a test's own, started as a facility starts it, with deployments of flows in a file."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.services.prefect_process import wait_until

PREFECT = str(Path(sys.executable).with_name("prefect"))
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class WorkerProcess:
    """``prefect worker start`` on a work pool of type ``warm-process``.

    Parameters
    ----------
    api_url : str
        The Prefect server, as the test asks it.
    folder : Path
        For the log.
    pool : str
        Name of the work pool.
    worker_api_url : str, optional
        The Prefect server as the worker and its flow runs see it, where that is a proxy.
    user : str, optional
        User and password that the server asks for.
    within : sequence of str, optional
        What stands before its command, to run it somewhere else.
    """

    def __init__(
        self,
        api_url: str,
        folder: Path,
        pool: str,
        *,
        worker_api_url: str | None = None,
        user: str = "",
        within: Sequence[str] = (),
    ) -> None:
        self._within = within
        self.pool = pool
        self.log = folder / f"{pool}.log"
        self._api_url = api_url
        transport, auth = httpx.HTTPTransport(retries=3), tuple(user.split(":", 1)) if user else None
        self._client = httpx.Client(base_url=api_url, timeout=60, transport=transport, auth=auth)
        self._environment = {**os.environ, "PREFECT_API_URL": worker_api_url or api_url, "PREFECT_CLI_PROMPT": "false"}
        if user:
            self._environment["PREFECT_API_AUTH_STRING"] = user
        self.process: subprocess.Popen | None = None

    def make_pool(self, *, preload: bool = True) -> None:
        """Make the work pool as Prefect's command does, or one whose worker imports Prefect alone."""
        from bluesky_prefect.worker import WarmProcessWorker

        template = WarmProcessWorker.get_default_base_job_template()
        if not preload:
            template["variables"]["properties"]["preload"]["default"] = []
        self.ask("POST", "/work_pools/", name=self.pool, type=WarmProcessWorker.type, base_job_template=template)

    def make_pool_by_command(self, *, preload: list[str]) -> None:
        created = self.command("work-pool", "create", self.pool, "--type", "warm-process")
        assert created.returncode == 0, created.stdout + created.stderr
        self.preload(*preload)

    def preload(self, *modules: str, checked: bool = True) -> None:
        """Have the worker import these as well, and on request not look whether flow runs can do their work."""
        template = self.ask("GET", f"/work_pools/{self.pool}")["base_job_template"]
        template["variables"]["properties"]["preload"]["default"] += modules
        if not checked:
            template["variables"]["properties"]["check"]["default"] = ""
        self.ask("PATCH", f"/work_pools/{self.pool}", base_job_template=template)

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**self._environment, "PREFECT_API_URL": self._api_url}
        return subprocess.run([PREFECT, *arguments], env=environment, capture_output=True, text=True, check=False)

    def start(self, *arguments: str, from_a_script: bool = False, ready: bool = True, **environment: str) -> None:
        """Start it; on request in the background of a shell, which is `process` then and has SIGINT ignored in it."""
        command = [*self._within, PREFECT, "worker", "start", "--pool", self.pool, *arguments]
        if from_a_script:
            command = ["sh", "-c", f"{shlex.join(command)} & wait"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            wait_until(lambda: self.says("has imported its modules"))

    def says(self, text: str) -> bool:
        assert self.process is None or self.process.poll() is None, self.log.read_text()[-5000:]
        return text in self.log.read_text()

    @property
    def fork_server(self) -> int | None:
        """The process id of the newest fork server that lives."""
        children = psutil.Process(self.process.pid).children()
        servers = [one for one in children if "bluesky_prefect.worker.forkserver" in one.cmdline()]
        return max(servers, key=lambda one: one.create_time()).pid if servers else None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the worker and wait until it has ended."""
        self.process.send_signal(number)
        try:
            return self.process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        def answer() -> httpx.Response | None:
            # A server on SQLite answers 503, or late, while its database is locked.
            try:
                response = self._client.request(method, path, json=content or None)
            # HAProxy cuts connections to a server that was killed.
            except (httpx.ReadTimeout, httpx.RemoteProtocolError):
                return None
            return None if response.status_code in (502, 503) else response

        response = wait_until(answer, timeout_s=120)
        response.raise_for_status()
        return response.json() if response.content else None

    def deploy(self, entrypoint: str, folder: Path | None, **job_variables: Any) -> str:
        """Make a deployment of a flow below a folder, or of one in a module, and return its id."""
        name = entrypoint.replace("/", "-").rpartition(":")[2]
        flow = self.ask("POST", "/flows/", name=name.rpartition(".")[2].replace("_", "-"))
        steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}] if folder else None
        content = {"pull_steps": steps, "entrypoint": entrypoint, "job_variables": job_variables}
        made = self.ask(
            "POST", "/deployments/", name=os.urandom(4).hex(), flow_id=flow["id"], work_pool_name=self.pool, **content
        )
        return made["id"]

    def submit(self, deployment: str, *, scheduled: str | None = None, **parameters: Any) -> str:
        """Make a flow run and return its id."""
        state: dict[str, Any] = {"type": "SCHEDULED"}
        if scheduled is not None:
            state["state_details"] = {"scheduled_time": scheduled}
        path = f"/deployments/{deployment}/create_flow_run"
        return self.ask("POST", path, state=state, parameters=parameters)["id"]

    def flow_run(self, flow_run: str) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{flow_run}")

    def wait(self, flow_run: str, *states: str, timeout_s: float = 90.0) -> dict[str, Any]:
        """Wait until a flow run is in one of these states, by default a final one."""

        def reached() -> dict[str, Any] | None:
            found = self.flow_run(flow_run)
            return found if found["state_type"] in (states or FINAL) else None

        return wait_until(reached, timeout_s)

    def cancel(self, flow_run: str) -> None:
        """Do what the button in the UI does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.ask("POST", f"/flow_runs/{flow_run}/set_state", state=state)

    def post_events(self, *events: dict[str, Any]) -> None:
        """Have Prefect pass events on as if they had happened."""
        self._client.post("/events", json=list(events)).raise_for_status()

    def messages(self, flow_run: str) -> list[str]:
        """Return all log lines of a flow run."""
        lines: list[str] = []
        wanted = {"flow_run_id": {"any_": [flow_run]}}
        while True:
            page = self.ask("POST", "/logs/filter", logs=wanted, sort="TIMESTAMP_ASC", limit=200, offset=len(lines))
            lines += [entry["message"] for entry in page]
            if len(page) < 200:
                return lines

    def close(self) -> None:
        if self.process is not None:
            self.stop()
        self._client.close()
