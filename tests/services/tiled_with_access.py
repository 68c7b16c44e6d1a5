"""A Tiled server that has users, a service, and an access policy with tags, as facilities run it."""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.services.prefect_process import wait_until

PROVIDER = "beamline"
_POLICY = "tiled.access_control.access_policies:TagBasedAccessPolicy"
_PARSER = "tiled.access_control.access_tags:AccessTagsParser"
_NEVER_ENDING = {"scopes": None, "expires_in": None}
_READ = ["read:data", "read:metadata"]
_WRITE = [*_READ, "write:data", "write:metadata", "create:node", "register", "delete:node", "delete:revision"]


class TiledWithAccess:
    """A Tiled server in a process of its own, on a free port of loopback.

    Parameters
    ----------
    folder : Path
        Where it keeps its files.
    proposals : dict
        The users that may see what has a tag, by the name of the tag.
    lent : str
        Name of one more tag: the service may read what has it, and give it to nothing.

    Attributes
    ----------
    keys : dict
        API keys by the names of users; ``service`` is the one that writes, and owns all other tags.
    """

    def __init__(self, folder: Path, proposals: dict[str, list[str]], lent: str) -> None:
        self.folder = folder
        self.users = sorted({user for users in proposals.values() for user in users})
        self.keys: dict[str, str] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._passwords = {name: secrets.token_hex(16) for name in (*self.users, "admin")}
        (folder / "config.yml").write_text(json.dumps(self._config()))  # JSON is YAML
        self.log = folder / "tiled.log"
        self._process = self._start()
        try:
            self._set_up(proposals, lent)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [Path(sys.executable).with_name("tiled"), "serve", "config", self.folder / "config.yml"]
        port = self.uri.rpartition(":")[2]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*map(str, command), "--host", "127.0.0.1", "--port", port],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NO_COLOR": "1"},
            )

    def _config(self) -> dict[str, Any]:
        database = {"uri": f"sqlite:///{self.folder / 'users.db'}", "init_if_not_exists": True}
        provider = {
            "provider": PROVIDER,
            "authenticator": "tiled.authenticators:DictionaryAuthenticator",
            "args": {"users_to_passwords": self._passwords},
        }
        catalog = {
            "uri": f"sqlite:///{self.folder / 'catalog.db'}",
            "writable_storage": [str(self.folder / "data"), f"duckdb:///{self.folder / 'tables.duckdb'}"],
            "init_if_not_exists": True,
            "top_level_access_tags": ["beamline"],
        }
        return {
            "trees": [{"path": "/", "tree": "catalog", "args": catalog}],
            "database": database,
            "access_control": {
                "access_policy": _POLICY,
                "args": {"provider": PROVIDER, "access_tags_parser": _PARSER},
            },
            "authentication": {
                "providers": [provider],
                "tiled_admins": [{"provider": PROVIDER, "id": "admin"}],
                "secret_keys": [secrets.token_hex(32)],
            },
        }

    def _set_up(self, proposals: dict[str, list[str]], lent: str) -> None:
        wait_until(self._answers)
        with httpx.Client(base_url=f"{self.uri}/api/v1", timeout=30, verify=False) as client:

            def post(path: str, **content: Any) -> Any:
                return client.post(path, **content).raise_for_status().json()

            for user, password in self._passwords.items():
                form = {"grant_type": "password", "username": user, "password": password}
                token = post(f"/auth/provider/{PROVIDER}/token", data=form)["access_token"]
                login = {"Authorization": f"Bearer {token}"}
                self.keys[user] = post("/auth/apikey", headers=login, json=_NEVER_ENDING)["secret"]
            admin = {"Authorization": f"Apikey {self.keys['admin']}"}
            service = post("/auth/principal", headers=admin, params={"role": "user"})["uuid"]
            self.keys["service"] = post(f"/auth/principal/{service}/apikey", headers=admin, json=_NEVER_ENDING)[
                "secret"
            ]
        asyncio.run(_compile(self.folder, {"beamline": self.users, **proposals}, lent, service))

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.uri}/api/v1/", timeout=10, verify=False).is_success
        except httpx.TransportError:
            return False


async def _compile(folder: Path, readers: dict[str, list[str]], lent: str, service: str) -> None:
    """Write who may do what into the catalog's database, as the program of a facility does it each few minutes."""
    from tiled.access_control.access_tags import AccessTagsCompiler
    from tiled.access_control.scopes import ALL_SCOPES
    from tiled.server.connection_pool import close_database_connection_pool
    from tiled.server.settings import DatabaseSettings

    writer = {"name": service, "scopes": _WRITE}
    tags = {
        tag: {"users": [writer, *({"name": user, "scopes": _READ} for user in users)]} for tag, users in readers.items()
    }
    tags[lent] = {"users": [{"name": service, "scopes": _READ}]}
    owners = {tag: {"users": [{"name": service}]} for tag in readers}
    database = DatabaseSettings(uri=f"sqlite:///{folder / 'catalog.db'}")
    compiler = AccessTagsCompiler(ALL_SCOPES, {"tags": tags, "tag_owners": owners}, database, lambda group: [])
    compiler.load_tag_config()
    await compiler.compile()
    await close_database_connection_pool(database)
