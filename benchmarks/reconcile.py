"""What finding the runs of a window costs as the catalog grows: time and requests, behind a real Tiled server.

Each catalog is the local stack's own, filled with runs as a beamline writes them. The window is that of the last 100
runs, of as many in the middle, and of the last 1,000; each with the ratio to the smallest catalog.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.services.prefect_process import wait_until

from benchmarks.callback import START
from bluesky_prefect.flows.catalog import Catalog
from bluesky_prefect.reconciliation.runs import runs_between
from bluesky_prefect.settings import Settings
from bluesky_prefect.stack.info import StackInfo, StackPaths, stack_info
from bluesky_prefect.stack.tiled import TiledServer, load_or_make_key, make_containers
from bluesky_prefect.stack.tiled_app import index_times

WINDOW = 100
BETWEEN_RUNS_S = 300.0
REPEATS = 9
SPECS = json.dumps([{"name": "BlueskyRun", "version": "3.0"}])
# What every beamline adds to a start document: with it, one has the 1.8 kB that they have.
POSITIONS = {f"motor_{number}": number * 1.25 for number in range(40)}
MORE = {"beamline_id": "tst", "comment": "y" * 200, "positions": POSITIONS}
DATA_KEY = {"dtype": "number", "shape": [], "source": "SIM:det", "precision": 3}
STREAM = json.dumps({"data_keys": {f"det_{number}": DATA_KEY for number in range(8)}, "hints": {}, "time": 1.0})
INSERT = "INSERT INTO nodes (parent, key, structure_family, metadata, specs) VALUES (?, ?, 'container', ?, ?)"


@contextlib.contextmanager
def tiled(directory: Path) -> Iterator[tuple[TiledServer, StackInfo]]:
    """Run a Tiled server as the local stack does, on a catalog in `directory`."""
    paths = StackPaths(directory)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = TiledServer(paths, port, load_or_make_key(paths))
    server.prepare()
    environment = {**os.environ, **server.environment()}
    with (directory / "tiled.log").open("ab") as log:
        process = subprocess.Popen(server.command(), env=environment, stdout=log, stderr=log)
    try:
        wait_until(server.is_ready)
        yield server, stack_info(Settings(state_directory=directory), tiled_port=port, prefect_port=0, key=server.key)
    finally:
        process.kill()
        process.wait()


def run_documents(number: int, began_s: float) -> tuple[str, str]:
    """Return the uid and the metadata of a finished run."""
    uid = str(uuid.uuid4())
    plan = random.choice(["count", "scan", "grid_scan"])
    start = {**START, **MORE, "uid": uid, "scan_id": number, "plan_name": plan, "time": began_s}
    stop = {"uid": str(uuid.uuid4()), "run_start": uid, "time": began_s + 60, "exit_status": "success"}
    return uid, json.dumps({"start": start, "stop": {**stop, "reason": "", "num_events": {"primary": 101}}})


def fill(catalog: Path, runs: int, end_s: float) -> None:
    """Put finished runs with a stream each into a catalog's database, as Tiled would one by one."""
    with contextlib.closing(sqlite3.connect(catalog)) as database, database:
        [(raw,)] = database.execute("SELECT id FROM nodes WHERE key = 'raw' AND parent = 0").fetchall()
        for number in range(1, runs + 1):
            uid, metadata = run_documents(number, end_s - (runs + 1 - number) * BETWEEN_RUNS_S)
            run = database.execute(INSERT, (raw, uid, metadata, SPECS)).lastrowid
            database.execute(INSERT, (run, "primary", STREAM, "[]"))


def measured(info: StackInfo, since_s: float, until_s: float, runs: int) -> tuple[float, int]:
    """Return the median time in seconds and the requests that finding the runs of a window takes."""
    settings = Settings(tiled_uri=info.tiled_uri, tiled_api_key=info.tiled_api_key)
    requests: list[object] = []
    with Catalog.connect(settings) as catalog:
        catalog.raw.context.http_client.event_hooks["request"].append(requests.append)
        seconds = []
        for _ in range(REPEATS):
            requests.clear()
            began = time.perf_counter()
            found = sum(1 for _ in runs_between(catalog, since_s, until_s))
            seconds.append(time.perf_counter() - began)
            if found != runs:
                raise SystemExit(f"{found} runs found, {runs} are there")
    return statistics.median(seconds), len(requests)


def catalog_row(runs: int, end_s: float, status: Console) -> list[tuple[float, int]]:
    """Build a catalog and measure three windows: the last runs, as many in the middle, ten times as many."""
    with tempfile.TemporaryDirectory() as directory:
        with tiled(Path(directory)) as (server, info):
            make_containers(info, Settings(state_directory=Path(directory)))
        with status.status(f"Making a catalog of {runs:,} runs ..."):
            fill(server.catalog, runs, end_s)
            index_times(server.catalog)
        with tiled(Path(directory)) as (_, info), status.status(f"Measuring with {runs:,} runs ..."):
            length_s = WINDOW * BETWEEN_RUNS_S
            middle_s = end_s - runs * BETWEEN_RUNS_S / 2
            return [
                measured(info, end_s - length_s, end_s, WINDOW),
                measured(info, middle_s - length_s, middle_s, WINDOW),
                measured(info, end_s - 10 * length_s, end_s, 10 * WINDOW),
            ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="runs in the largest catalog")
    arguments = parser.parse_args()
    console = Console(width=120)
    columns = (f"last {WINDOW} runs", f"{WINDOW} runs in the middle", f"last {10 * WINDOW} runs")
    table = Table("runs in the catalog", *columns, title="Time to find the runs of a window (requests; ratio)")
    first: list[tuple[float, int]] = []
    for runs in sorted({min(size, arguments.runs) for size in (1_000, 10_000, arguments.runs)}):
        row = catalog_row(runs, time.time(), console)
        first = first or row
        table.add_row(
            f"{runs:,}",
            *(
                f"{1000 * seconds:.0f} ms ({requests}; {seconds / base:.2f})"
                for (seconds, requests), (base, _) in zip(row, first, strict=True)
            ),
        )
    console.print(table)


if __name__ == "__main__":
    main()
