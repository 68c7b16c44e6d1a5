"""A catalog of 1,000 to 1,000,000 runs in a real Tiled server: the local stack's own, and one on PostgreSQL.

Each catalog grows from one size to the next by runs as a beamline writes them, with a stream each. The window of
`reconcile` holds the same number of runs whatever the size.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from tests.services.postgres import empty_database
from tests.services.prefect_process import wait_until

from benchmarks.callback import START
from benchmarks.growth.tables import growth_table, median_s
from bluesky_prefect.core import Settings
from bluesky_prefect.sources._seen_runs import SeenRuns
from bluesky_prefect.stack import StackInfo
from bluesky_prefect.stack._http import answers
from bluesky_prefect.stack._info import StackPaths, stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._tiled import TiledServer, make_containers
from bluesky_prefect.stack.workarounds._tiled_app import index_runs
from bluesky_prefect.tiled_api import Catalog, newest_runs, runs_between, runs_with_uids

SIZES = (1_000, 10_000, 100_000, 1_000_000)
WINDOW = 100
BETWEEN_RUNS_S = 300.0
# Runs are in the past, so that the window of the newest has an end.
FIRST_RUN_S = 1.0e9
REPEATS = 7
LISTED = 25
ON_DISK = "size of the database"
SPECS = json.dumps([{"name": "BlueskyRun", "version": "3.0"}])
# What every beamline adds to a start document: with it, one has the 1.8 kB that they have.
POSITIONS = {f"motor_{number}": number * 1.25 for number in range(40)}
MORE = {"beamline_id": "tst", "comment": "y" * 200, "positions": POSITIONS}
DATA_KEY = {"dtype": "number", "shape": [], "source": "SIM:det", "precision": 3}
STREAM = json.dumps({"data_keys": {f"det_{number}": DATA_KEY for number in range(8)}, "hints": {}, "time": 1.0})
# What Tiled's trigger writes for each node, row by row: which nodes are below which.
TRIGGER = "TRIGGER update_closure_table_when_inserting"
CLOSURE = """INSERT INTO nodes_closure (ancestor, descendant, depth) SELECT above.ancestor, nodes.id, above.depth + 1
FROM nodes JOIN nodes_closure above ON above.descendant = nodes.parent WHERE nodes.id > $1"""
COLUMNS = ("id", "parent", "key", "structure_family", "metadata", "specs")
# The first two are Tiled's own: filled row by row, they take longer than all else. The others are those of
# docs/how-to/large-catalogs.md.
INDEXES = {
    "ix_nodes_metadata": "nodes USING gin (metadata jsonb_path_ops)",
    "metadata_tsvector_search": "nodes USING gin (jsonb_to_tsvector('simple', metadata, '[\"string\"]'))",
    "runs_by_start": "nodes (parent, (metadata #> '{start,time}'))",
    "runs_by_stop": "nodes (parent, (metadata #> '{stop,time}'))",
}


def rows(raw: int, first_id: int, numbers: range) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of finished runs with a stream each, as Tiled would write them one by one."""
    for number in numbers:
        uid, began_s = str(uuid.UUID(int=random.getrandbits(128), version=4)), FIRST_RUN_S + number * BETWEEN_RUNS_S
        plan = random.choice(["count", "scan", "grid_scan"])
        start = {**START, **MORE, "uid": uid, "scan_id": number + 1, "plan_name": plan, "time": began_s}
        stop = {"uid": f"{uid}-stop", "run_start": uid, "time": began_s + 60, "exit_status": "success", "reason": ""}
        metadata = json.dumps({"start": start, "stop": {**stop, "num_events": {"primary": 101}}})
        run = first_id + 2 * (number - numbers.start)
        yield run, raw, uid, "container", metadata, SPECS
        yield run + 1, run, "primary", "container", STREAM, "[]"


class StackCatalog:
    """The local stack's catalog, in SQLite, with the indexes that it makes."""

    name = "the local stack's, in SQLite"

    def __init__(self, directory: Path, _: str) -> None:
        self.port, key = _port_and_key(directory)
        self._server = TiledServer(StackPaths(directory), self.port, key)
        self._server.prepare()

    def command(self) -> list[str]:
        """Return the server's command line."""
        return self._server.command()

    def environment(self) -> dict[str, str]:
        """Return what the server's environment has beside this process's own."""
        return self._server.environment()

    def fill(self, numbers: range) -> None:
        """Add runs."""
        with contextlib.closing(sqlite3.connect(self._server.catalog)) as database, database:
            [(raw,)] = database.execute("SELECT id FROM nodes WHERE key = 'raw' AND parent = 0")
            [(last,)] = database.execute("SELECT max(id) FROM nodes")
            insert = f"INSERT INTO nodes ({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"
            database.executemany(insert, rows(raw, last + 1, numbers))
        index_runs(self._server.catalog)

    def size(self) -> int:
        """Return how many bytes it has."""
        return self._server.catalog.stat().st_size


class PostgresCatalog:
    """Tiled's own server, as a facility runs it, with the indexes of the how-to."""

    name = "in PostgreSQL, with the indexes of large-catalogs.md"

    def __init__(self, directory: Path, url: str) -> None:
        self._dsn = url.replace("postgresql+asyncpg", "postgresql")
        self.port, key = _port_and_key(directory)
        self._config = directory / "config.yml"
        args = {"uri": url, "writable_storage": [str(directory / "data")], "init_if_not_exists": True}
        tree = {"path": "/", "tree": "catalog", "args": args}
        self._config.write_text(json.dumps({"trees": [tree], "authentication": {"single_user_api_key": key}}))

    def command(self) -> list[str]:
        """Return the server's command line."""
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return [str(Path(sys.executable).with_name("tiled")), "serve", "config", str(self._config), *where]

    def environment(self) -> dict[str, str]:
        """Return what the server's environment has beside this process's own."""
        return {"NO_COLOR": "1"}

    def fill(self, numbers: range) -> None:
        """Add runs."""
        asyncio.run(self._fill(numbers))

    def size(self) -> int:
        """Return how many bytes it has."""
        return asyncio.run(self._value("SELECT pg_database_size(current_database())"))

    async def _fill(self, numbers: range) -> None:
        database = await asyncpg.connect(self._dsn)
        try:
            raw = await database.fetchval("SELECT id FROM nodes WHERE key = 'raw' AND parent = 0")
            last = await database.fetchval("SELECT max(id) FROM nodes")
            await database.execute(f"DROP INDEX IF EXISTS {', '.join(INDEXES)}; SET maintenance_work_mem = '1GB'")
            await database.execute(f"ALTER TABLE nodes DISABLE {TRIGGER}")
            records = rows(raw, last + 1, numbers)
            await database.copy_records_to_table("nodes", records=records, columns=COLUMNS)
            itself = "INSERT INTO nodes_closure (ancestor, descendant, depth) SELECT id, id, 0 FROM nodes WHERE id > $1"
            await database.execute(itself, last)
            await database.execute(f"{CLOSURE} AND nodes.parent <= $1", last)
            await database.execute(f"{CLOSURE} AND nodes.parent > $1", last)
            await database.execute(f"ALTER TABLE nodes ENABLE {TRIGGER}")
            await database.execute("SELECT setval('nodes_id_seq', (SELECT max(id) FROM nodes))")
            for name, definition in INDEXES.items():
                await database.execute(f"CREATE INDEX {name} ON {definition}")
            await database.execute("VACUUM ANALYZE nodes, nodes_closure")
        finally:
            await database.close()

    async def _value(self, query: str) -> int:
        database = await asyncpg.connect(self._dsn)
        try:
            return await database.fetchval(query)
        finally:
            await database.close()


def _port_and_key(directory: Path) -> tuple[int, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return port, StackKeys.load_or_make(StackPaths(directory)).tiled.get_secret_value()


@contextlib.contextmanager
def served(kind: Any, directory: Path, settings: Settings) -> Iterator[Settings]:
    """Run a catalog's Tiled server; give the settings of its clients."""
    with (directory / "tiled.log").open("ab") as log:
        environment = {**os.environ, **kind.environment()}
        process = subprocess.Popen(kind.command(), env=environment, stdout=log, stderr=log)
    try:
        headers = {"Authorization": f"Apikey {settings.tiled_api_key.get_secret_value()}"}
        wait_until(lambda: answers(f"{settings.tiled_uri}/api/v1/metadata/", headers=headers), 120)
        yield settings
    finally:
        process.terminate()
        process.wait()


def looks(catalog: Catalog, directory: Path, runs: int) -> Mapping[str, Callable[[], Any]]:
    """Return what is asked of a catalog of so many runs, by name."""
    end_s, length_s = FIRST_RUN_S + runs * BETWEEN_RUNS_S, WINDOW * BETWEEN_RUNS_S
    middle_s = FIRST_RUN_S + runs // 2 * BETWEEN_RUNS_S
    newest = [run.uid for run in newest_runs(catalog, SeenRuns.MOST)]
    seen = SeenRuns(directory, "catalog")

    def window(until_s: float, plan: str | None = None) -> None:
        found = sum(1 for _ in runs_between(catalog, until_s - length_s, until_s, plan=plan))
        if plan is None and found != WINDOW:
            raise SystemExit(f"{found} runs found, {WINDOW} are there")

    def listen() -> None:
        """Look as `listen tiled` does where one run is new."""
        met = [run.uid for run in newest_runs(catalog, LISTED)]
        seen.complete([str(uuid.uuid4()), *met, *newest], met[:1])
        seen.save()

    return {
        f"reconcile: the last {WINDOW} runs": lambda: window(end_s),
        f"reconcile: {WINDOW} runs in the middle": lambda: window(middle_s),
        f"reconcile: those of {WINDOW} of one plan": lambda: window(end_s, "scan"),
        "listen tiled: a look, one run is new": listen,
        "50 runs by their uids": lambda: list(runs_with_uids(catalog, newest[:50])),
        "raw[-1]": lambda: catalog.find(-1),
        "a run by its uid": lambda: catalog.find(newest[-1]),
        "a run by its scan id": lambda: catalog.find(runs // 2),
        "a run by 8 characters of its uid": lambda: catalog.find(newest[-1][:8]),
    }


def measure_kind(console: Console, kind: Any, sizes: list[int], url: str) -> None:
    """Print the table of one kind of catalog, as far as it got."""
    figures: list[dict[str, float]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            grow(console, kind, sizes, (Path(folder), url), figures)
    finally:
        columns = [f"{size:,} runs" for size in sizes[: len(figures)]]
        console.print(growth_table(f"Tiled's catalog, {kind.name}", columns, figures, ON_DISK))


def grow(
    console: Console, kind: Any, sizes: list[int], where: tuple[Path, str], figures: list[dict[str, float]]
) -> None:
    """Measure a catalog at one size after the other."""
    directory, url = where
    catalog = kind(directory, url)
    keys = StackKeys.load_or_make(StackPaths(directory))
    info: StackInfo = stack_info(Settings(state_directory=directory), {"tiled": catalog.port}, keys)
    settings = Settings(state_directory=directory, tiled_uri=info.tiled_uri, tiled_api_key=info.tiled_api_key)
    with served(catalog, directory, settings):
        make_containers(info, settings)
    for before, size in zip([0, *sizes], sizes, strict=False):
        with console.status(f"Adding runs until there are {size:,} ..."):
            catalog.fill(range(before, size))
        one: dict[str, float] = {ON_DISK: catalog.size()}
        figures.append(one)
        with served(catalog, directory, settings), Catalog.connect(settings) as connected:
            for name, look in looks(connected, directory, size).items():
                with console.status(f"{size:,} runs: {name} ..."):
                    one[name] = median_s(look, REPEATS)


def measure_stack(console: Console, sizes: list[int]) -> None:
    """Print the table of the local stack's catalog."""
    measure_kind(console, StackCatalog, sizes, "")


def measure_postgres(console: Console, sizes: list[int]) -> None:
    """Print the table of a catalog in PostgreSQL, if this machine can have one."""
    with empty_database() as url:
        if url is None:
            console.print("A catalog in PostgreSQL is left out: there is no server at 127.0.0.1:5432.")
            return
        measure_kind(console, PostgresCatalog, sizes, url)
