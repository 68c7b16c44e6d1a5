"""The Prefect worker, as seen by those who start it."""

import secrets
import sys
from dataclasses import dataclass, field
from urllib.parse import quote

from bluesky_prefect.core import Settings, StackError, private_directory, rights_in, variable_text
from bluesky_prefect.stack._http import answers
from bluesky_prefect.stack._info import StackInfo, StackPaths
from bluesky_prefect.stack._prefect import client_environment

DEPLOYMENT = "my-workflow/local"
# By this variable of its process a worker's type is known.
WORKER_TYPE = "BLUESKY_PREFECT_WORKER_TYPE"

# How often Prefect's own worker asks for work. The question costs the server about 10 ms; the default of 10 s is what
# a person at a beamline would wait for. The warm worker is told of it, and asks in case it was not.
QUERY_SECONDS = 1
# The shortest that Prefect takes, so that a flow run that was killed is noticed within minutes.
HEARTBEAT_SECONDS = 30


@dataclass(frozen=True)
class Worker:
    """A worker on the stack's work pool, with the deployment it is there for."""

    paths: StackPaths
    info: StackInfo
    settings: Settings
    # Prefect lists workers by name, and keeps the dead ones: a new name each time tells them apart.
    worker_name: str = field(default_factory=lambda: f"bluesky-{secrets.token_hex(3)}")

    name = "worker"
    title = "Prefect worker"
    port = None
    # Flow runs inherit it: a scan beside them, and the server that serves all of them, go first.
    niceness = 10

    @property
    def umask(self) -> int:
        """The umask it runs with: that of the state directory below it, elsewhere the user's own."""
        return rights_in(self.paths.root).umask if self.settings.output_directory is None else -1

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-P", "-m", "bluesky_prefect.stack._worker_process", self.worker_name]

    def environment(self) -> dict[str, str]:
        """Return what the worker and its flow runs need; they inherit it."""
        return {
            **settings_environment(self.settings),
            **client_environment(self.paths),
            **self.info.environment(),
            WORKER_TYPE: self.settings.worker_type,
            **({"PREFECT_WORKER_QUERY_SECONDS": str(QUERY_SECONDS)} if self.settings.worker_type == "process" else {}),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "MPLBACKEND": "agg",
        }

    def prepare(self) -> None:
        """Make the directory of exported files."""
        try:
            if self.settings.output_directory is None:
                private_directory(self.info.exports)
            self.info.exports.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"Cannot make the directory of exported files {self.info.exports}: {error.strerror}. "
                "Choose another one with BLUESKY_PREFECT_OUTPUT_DIRECTORY."
            ) from error

    def is_ready(self) -> bool:
        """Tell whether this worker has signed in at the server, and the deployment is there."""
        path = f"work_pools/{quote(self.settings.work_pool)}/workers/filter"
        try:
            workers = self.info.ask_prefect(path, body={"limit": 200}, timeout_s=2)
        except StackError:
            return False
        signed_in = any(one["name"] == self.worker_name and one["status"] == "ONLINE" for one in workers)
        deployment = f"{self.info.prefect_api_url}/deployments/name/{DEPLOYMENT}"
        return signed_in and answers(deployment, headers=self.info.prefect_headers)


def settings_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give another process the settings that were set here.

    They hold no secrets, nor what only `up` needs.
    """
    kept_back = {"tiled_api_key", "prefect_database_url", "readable"}
    values = settings.model_dump(mode="json", include=settings.model_fields_set - kept_back, exclude_none=True)
    return {f"BLUESKY_PREFECT_{name.upper()}": variable_text(name, value) for name, value in values.items()}
