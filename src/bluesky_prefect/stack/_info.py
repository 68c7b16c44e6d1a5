"""Facts about a stack: the addresses of its services, and their processes."""

import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr, ValidationError

from bluesky_prefect.core import Settings, basic_auth, shared_with, write_whole
from bluesky_prefect.prefect_api import ui_root
from bluesky_prefect.stack._http import request_json
from bluesky_prefect.stack._keys import CLIENT_AUTH_STRING, StackKeys
from bluesky_prefect.stack._ports import HOST
from bluesky_prefect.stack._process import ManagedProcess, without_proxy
from bluesky_prefect.tiled_api import ReadableStorage

logger = logging.getLogger(__name__)

# Five heartbeats of its flow runs: a busy machine may be late with some.
_HEARTBEAT_TIMEOUT_S = 150.0
# What it has deployments for.
STACK_WORKFLOWS = "bluesky_prefect.stack:WORKFLOWS"


@dataclass(frozen=True)
class StackInfo:
    """Addresses of a running local stack, and the secrets that open its servers."""

    prefect_api_url: str
    prefect_ui_url: str
    tiled_uri: str
    tiled_api_key: SecretStr
    prefect_auth_string: SecretStr
    exports: Path
    images: Path
    readable: tuple[Path, ...]
    state_directory: Path
    prefect_home: Path
    heartbeat_timeout_s: float = _HEARTBEAT_TIMEOUT_S
    workflows: str = STACK_WORKFLOWS

    @property
    def tiled_api_key_path(self) -> Path:
        """The file that holds the Tiled API key."""
        return StackPaths(self.state_directory).tiled_api_key

    @property
    def prefect_auth_string_path(self) -> Path:
        """The file that holds user and password of the Prefect server."""
        return StackPaths(self.state_directory).prefect_auth_string

    @property
    def prefect_headers(self) -> dict[str, str]:
        """Headers of a request to the Prefect server; never log them."""
        return {"Authorization": basic_auth(self.prefect_auth_string.get_secret_value())}

    def ask_prefect(self, path: str, **content: Any) -> Any:
        """Send a request to the Prefect server's API, as `request_json` does, and return the answer."""
        return request_json(f"{self.prefect_api_url}/{path}", headers=self.prefect_headers, **content)

    @property
    def logs(self) -> Path:
        """The directory of the services' logs."""
        return StackPaths(self.state_directory).logs

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make a process use this stack.

        They hold the keys of both servers: hand them to a process, never to a log.
        """
        key = self.tiled_api_key.get_secret_value()
        return {
            "PREFECT_API_URL": self.prefect_api_url,
            "PREFECT_UI_URL": ui_root(self.prefect_ui_url),
            CLIENT_AUTH_STRING: self.prefect_auth_string.get_secret_value(),
            "PREFECT_HOME": str(self.prefect_home),
            "BLUESKY_PREFECT_TILED_URI": self.tiled_uri,
            # Both names of the setting, so that a value of another server in either of them does not win.
            "BLUESKY_PREFECT_TILED_API_KEY": key,
            "TILED_API_KEY": key,
            "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(self.exports),
            "BLUESKY_PREFECT_WORKFLOWS": self.workflows,
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(self.state_directory),
            "BLUESKY_PREFECT_HEARTBEAT_TIMEOUT_S": str(self.heartbeat_timeout_s),
            **without_proxy(dict(os.environ)),
        }


class StackState(BaseModel):
    """The processes of a stack by the name of their service, as kept in ``stack.json``.

    The ports that were used last are kept when it is down, so that bookmarks stay good where any port will do; and by
    whom, since their sessions may go on holding them.
    """

    version: int = 1
    processes: dict[str, ManagedProcess] = Field(default_factory=dict)
    last_ports: dict[str, int] = Field(default_factory=dict)
    last_users: dict[str, int] = Field(default_factory=dict)
    stopped_s: float | None = None
    """Time of the last ``down``, in seconds since the epoch; None while it is up, and if it never was."""

    @property
    def was_used(self) -> bool:
        """True if there has been a local stack in this state directory."""
        return bool(self.last_ports)

    @classmethod
    def load(cls, path: Path) -> "StackState":
        """Read the state; a missing or unreadable file is a stack that does not run."""
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except (OSError, ValueError, ValidationError):
            return cls()

    def with_processes(self, processes: dict[str, ManagedProcess]) -> "StackState":
        """Return the state with other processes; ports and users of the present ones are remembered."""
        present = {**self.processes, **processes}
        ports = ports_of(present)
        users = {name: one.uid for name, one in present.items() if one.uid is not None}
        return StackState(
            processes=processes,
            last_ports={**self.last_ports, **ports},
            last_users={**self.last_users, **users},
            stopped_s=None if ports_of(processes) else self.stopped_s,
        )

    def save(self, path: Path) -> None:
        """Write the state to disk."""
        write_whole(path, (self.model_dump_json(indent=2) + "\n").encode(), private=True)


class StackPaths:
    """Paths of a stack's files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "stack.json"
        self.lock = root / "stack.lock"
        self.tiled_api_key = root / "tiled-api-key"
        self.prefect_auth_string = root / "prefect-auth-string"
        # The address of Prefect's database, if it is not the stack's own file.
        self.database_url = root / "prefect-database-url"
        # Catalog and data of the Tiled server.
        self.tiled = root / "tiled"
        # What that server may read; `Settings.readable_path`, which flows read.
        self.readable = root / "tiled-readable.json"
        # ``PREFECT_HOME`` of the stack, with the database.
        self.prefect = root / "prefect"
        self.logs = root / "logs"
        # The list of workflows, for people to edit.
        self.workflows = root / "workflows.py"
        # Files that detectors write and the Tiled server reads.
        self.images = root / "images"


def ports_of(processes: Mapping[str, ManagedProcess]) -> dict[str, int]:
    """Return the ports of processes that have one, by service name."""
    return {name: one.port for name, one in processes.items() if one.port}


def listed_in(paths: StackPaths) -> str:
    """Return where the stack's own list of workflows is; "" if it has no such file, or others may write to it.

    It is code that runs with this user's rights: of others only those count who share the directory. Whatever the mode
    of a file is, nobody else reaches it in a directory that is closed to others.
    """
    try:
        file, folder = paths.workflows.stat(), paths.root.stat()
    except OSError as error:
        if paths.workflows.is_symlink():
            _not_used(paths.workflows, error.strerror or "it cannot be read", "fix the link")
        return ""
    is_shared = bool(shared_with(paths.root))
    writable = stat.S_IWOTH if is_shared else stat.S_IWOTH | stat.S_IWGRP
    is_closed = not folder.st_mode & 0o077 and not paths.workflows.is_symlink()
    if file.st_uid not in (os.geteuid(), 0) and not is_shared:
        _not_used(paths.workflows, "it is another user's", "make a copy of your own")
    elif (0 if is_closed else file.st_mode | folder.st_mode) & writable:
        _not_used(paths.workflows, "others may write to it", f"chmod go-w {paths.workflows.resolve()}")
    else:
        return f"{paths.workflows}:workflows"
    return ""


def _not_used(file: Path, why: str, remedy: str) -> None:
    logger.warning("%s is not used, but the list of this package: %s. To use it: %s", file, why, remedy)


def stack_info(settings: Settings, ports: Mapping[str, int], keys: StackKeys) -> StackInfo:
    """Return the addresses of a stack with these ports (0 where one has none), and the keys to it."""
    paths = StackPaths(settings.state_directory.absolute())
    prefect, tiled = (f"http://{HOST}:{ports.get(name, 0)}" for name in ("prefect", "tiled"))
    return StackInfo(
        prefect_api_url=f"{prefect}/api",
        prefect_ui_url=prefect,
        tiled_uri=tiled,
        tiled_api_key=keys.tiled,
        prefect_auth_string=keys.prefect,
        exports=settings.exports_path.absolute(),
        images=paths.images,
        readable=ReadableStorage.load(paths.readable).directories,
        state_directory=paths.root,
        prefect_home=paths.prefect,
        heartbeat_timeout_s=settings.heartbeat_timeout_s
        if "heartbeat_timeout_s" in settings.model_fields_set
        else _HEARTBEAT_TIMEOUT_S,
        workflows=settings.workflows or listed_in(paths) or STACK_WORKFLOWS,
    )
