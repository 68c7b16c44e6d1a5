"""A PostgreSQL server of a test's own that asks everybody for a password."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import missing_service
from tests.services.prefect_process import wait_until
from tests.services.streaming_tiled import free_port

# PostgreSQL refuses to run as root.
_USER = "postgres"


class PasswordPostgres:
    """A PostgreSQL server on loopback, with SCRAM for all, on which each user has a password and databases.

    Parameters
    ----------
    folder : Path
        For the file of passwords.
    databases : dict
        The user that a database belongs to, by the name of the database.

    Attributes
    ----------
    address : str
        Host and port.
    passfile : Path
        What `PGPASSFILE` names.
    passwords : dict
        By user.
    """

    def __init__(self, folder: Path, databases: dict[str, str]) -> None:
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.passwords = {user: secrets.token_hex(16) for user in sorted({"admin", *databases.values()})}
        self.passfile = folder / "pgpass"
        self.passfile.touch(mode=0o600)
        lines = (f"{self.address}:*:{user}:{password}\n" for user, password in self.passwords.items())
        self.passfile.write_text("".join(lines))
        # Not below the tests' own folder, which no other user may enter.
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._account: dict[str, Any] = {}
        if os.getuid() == 0:
            shutil.chown(self._home, _USER, _USER)
            self._account = {"user": _USER, "group": _USER, "extra_groups": []}
        self._process = self._start()
        try:
            wait_until(lambda: self._sql("SELECT 1").returncode == 0)
            for user in set(databases.values()):
                self.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{self.passwords[user]}'")
            for name, user in databases.items():
                self.execute(f"CREATE DATABASE {name} OWNER {user}")
        except BaseException:
            self.close()
            raise

    def execute(self, statement: str) -> None:
        """Have it do something as its administrator."""
        done = self._sql(statement)
        assert done.returncode == 0, done.stderr

    def dump(self, database: str, path: Path) -> None:
        """Write all that a database holds to a file, as text."""
        command = [_program("pg_dump"), "--host", "127.0.0.1", "--port", str(self._port), "--username", "admin"]
        with path.open("wb") as file:
            subprocess.run([*command, "--inserts", database], check=True, env=self._environment, stdout=file)

    def close(self) -> None:
        """End it, and delete all that it holds."""
        self._process.send_signal(signal.SIGINT)  # whoever is connected does not hold it up
        self._process.wait(30)
        shutil.rmtree(self._home)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PGPASSFILE": str(self.passfile)}

    def _start(self) -> subprocess.Popen[bytes]:
        words, data = self._home / "password", self._home / "data"
        words.write_text(self.passwords["admin"])
        if self._account:
            shutil.chown(words, _USER, _USER)
        how = ["--auth=scram-sha-256", f"--pwfile={words}", "--no-sync", "--encoding=UTF8", "--locale=C"]
        make = [_program("initdb"), "--pgdata", str(data), "--username=admin", *how]
        subprocess.run(make, check=True, capture_output=True, cwd=self._home, **self._account)
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self._home}", "fsync=off")
        options = [part for setting in settings for part in ("-c", setting)]
        with (self._home / "log").open("wb") as log:
            return subprocess.Popen(
                [_program("postgres"), "-D", str(data), "-p", str(self._port), *options],
                stdout=log,
                stderr=log,
                cwd=self._home,
                **self._account,
            )

    def _sql(self, statement: str) -> subprocess.CompletedProcess[str]:
        assert self._process.poll() is None, (self._home / "log").read_text()
        command = [_program("psql"), "--host", "127.0.0.1", "--port", str(self._port), "--username", "admin"]
        # Not as an argument: it may hold a password.
        return subprocess.run(
            [*command, "--no-password", "--quiet", "--set", "ON_ERROR_STOP=1", "postgres"],
            input=statement,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )


def _program(name: str) -> str:
    # Debian has what a server needs where no PATH leads.
    folders = [str(one) for one in sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]]
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"]]))
    if not found:
        missing_service(f"{name}, which Debian's package postgresql has")
    return str(found)
