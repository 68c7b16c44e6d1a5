"""The Tiled server: catalog, storage, key."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bluesky_prefect.core import Settings, StackError, rights_in, write_whole
from bluesky_prefect.stack._files import make_private_directory
from bluesky_prefect.stack._http import answers
from bluesky_prefect.stack._info import StackInfo, StackPaths
from bluesky_prefect.stack._ports import HOST
from bluesky_prefect.stack._readable import storage_of
from bluesky_prefect.stack._service import serve_command
from bluesky_prefect.tiled_api import Catalog, ReadableStorage

# The setting of Tiled's server that holds the key.
KEY = "TILED_SINGLE_USER_API_KEY"


@dataclass(frozen=True)
class TiledServer:
    """Tiled with a persistent catalog, written to and read by one key.

    Of detectors' files it reads those in the stack's own directory of images, and in the `readable` directories.
    """

    paths: StackPaths
    port: int
    key: str
    readable: tuple[Path, ...] = ()

    name = "tiled"
    title = "Tiled server"
    # The RunEngine waits for each document to be written.
    niceness = 0

    @property
    def umask(self) -> int:
        """The umask it runs with: its files are for those who may enter the state directory."""
        return rights_in(self.paths.root).umask

    @property
    def catalog(self) -> Path:
        """The database of the catalog."""
        return self.paths.tiled / "catalog.db"

    @property
    def _is_made(self) -> bool:
        """True if Tiled has made the catalog, and noted the version of its tables at the end of that."""
        try:
            with closing(sqlite3.connect(f"{self.catalog.as_uri()}?mode=ro", uri=True)) as catalog:
                return catalog.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        except sqlite3.Error:
            return False

    @property
    def _config(self) -> Path:
        return self.paths.tiled / "config.yml"

    def command(self) -> list[str]:
        """Return the command line.

        It is an application factory under uvicorn, as Tiled documents for deployments, not
        ``tiled serve config``: that one prints the key, and the access log would hold it whenever a browser
        is sent to ``?api_key=...``.
        """
        return serve_command("bluesky_prefect.stack.workarounds._tiled_app:app_factory", self.port)

    def environment(self) -> dict[str, str]:
        """Return the key and the address of the configuration."""
        return {"TILED_CONFIG": str(self._config), KEY: self.key, "NO_COLOR": "1"}

    def prepare(self) -> None:
        """Write the configuration and make the directories."""
        data = make_private_directory(make_private_directory(self.paths.tiled) / "data")
        readable = storage_of((make_private_directory(self.paths.images), *self.readable))
        tree = {
            "path": "/",
            "tree": "catalog",
            "args": {
                "uri": f"sqlite:///{self.catalog}",
                # Tables go to DuckDB, which tells NaN from missing; SQLite does not.
                "writable_storage": [str(data), f"duckdb:///{self.paths.tiled / 'tables.duckdb'}"],
                "readable_storage": [str(directory) for directory in readable],
                # Tiled starts a process for it, which imports for seconds; the server checks the catalog by itself.
                "init_if_not_exists": not self._is_made,
            },
        }
        config = {"trees": [tree], "uvicorn": {"host": HOST, "port": self.port}}
        # JSON is YAML.
        write_whole(self._config, (json.dumps(config, indent=2) + "\n").encode(), private=True)
        kept = ReadableStorage(
            server=f"http://{HOST}:{self.port}", directories=self.readable, storage=(data, *readable)
        )
        kept.save(self.paths.readable)

    def is_ready(self) -> bool:
        """Tell whether it lets the holder of the key in."""
        headers = {"Authorization": f"Apikey {self.key}"}
        return answers(f"http://{HOST}:{self.port}/api/v1/metadata/", headers=headers)


def make_containers(info: StackInfo, settings: Settings) -> None:
    """Make the catalog of runs and the container of results, if they are not there; may raise `StackError`."""
    server = {"tiled_uri": info.tiled_uri, "tiled_api_key": info.tiled_api_key}
    try:
        with Catalog.connect(settings.model_copy(update=server)) as catalog:
            catalog.make_raw()
            catalog.processed()
    except Exception as error:
        raise StackError(f"Tiled refused to make the containers of runs and results: {error}") from error
