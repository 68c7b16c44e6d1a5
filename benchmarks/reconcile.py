"""What reconciliation costs as the catalog grows, with a real Tiled and a real Prefect server.

Each catalog is the local stack's own, filled with runs as a beamline writes them; Prefect's database (SQLite) holds a
completed flow run for each. First, finding the runs of a window: that of the last 100 runs, of as many in the middle,
and of the last 1,000. Then, all of `reconcile`. Each with the ratio to the smallest catalog.
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
from datetime import UTC, datetime
from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed
from rich.console import Console
from rich.table import Table
from tests.services.prefect_process import PrefectProcess, wait_until

from benchmarks.callback import START
from bluesky_prefect import Workflow
from bluesky_prefect.core import Settings, Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation import Reconciler, TimeWindow
from bluesky_prefect.stack import StackInfo
from bluesky_prefect.stack._info import StackPaths, stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._tiled import TiledServer, make_containers
from bluesky_prefect.stack.workarounds._tiled_app import index_times
from bluesky_prefect.tiled_api import Catalog, runs_between

WINDOW = 100
BETWEEN_RUNS_S = 300.0
REPEATS = 9
DEPLOYMENT = "my-workflow/local"
TIMES = ("created", "updated", "state_timestamp")
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
    keys = StackKeys.load_or_make(paths)
    server = TiledServer(paths, port, keys.tiled.get_secret_value())
    server.prepare()
    environment = {**os.environ, **server.environment()}
    with (directory / "tiled.log").open("ab") as log:
        process = subprocess.Popen(server.command(), env=environment, stdout=log, stderr=log)
    try:
        wait_until(server.is_ready)
        yield server, stack_info(Settings(state_directory=directory), {"tiled": port}, keys)
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


def fill(catalog: Path, runs: int, end_s: float) -> dict[str, float]:
    """Put finished runs with a stream each into a catalog's database, as Tiled would one by one; when each stopped."""
    stopped: dict[str, float] = {}
    with contextlib.closing(sqlite3.connect(catalog)) as database, database:
        [(raw,)] = database.execute("SELECT id FROM nodes WHERE key = 'raw' AND parent = 0").fetchall()
        for number in range(1, runs + 1):
            began_s = end_s - (runs + 1 - number) * BETWEEN_RUNS_S
            uid, metadata = run_documents(number, began_s)
            stopped[uid] = began_s + 60
            run = database.execute(INSERT, (raw, uid, metadata, SPECS)).lastrowid
            database.execute(INSERT, (run, "primary", STREAM, "[]"))
    return stopped


def fill_prefect(server: PrefectProcess, home: Path, stopped: dict[str, float]) -> None:
    """Put a completed flow run for each run into Prefect's database: copies of one that Prefect made."""
    server.deploy(DEPLOYMENT, "ref", ref={})
    with temporary_settings({PREFECT_API_URL: server.url}), PrefectApi(30, client_retries=True) as api:
        made = api.create_flow_run(Submission("pattern", DEPLOYMENT, DEPLOYMENT, "pattern"))
        api.client.set_flow_run_state(uuid.UUID(made.id), Completed(message="done"), force=True)
    with contextlib.closing(sqlite3.connect(home / "prefect" / "prefect.db", timeout=60)) as database, database:
        database.row_factory = sqlite3.Row
        flow_run = dict(database.execute("SELECT * FROM flow_run WHERE id = ?", (made.id,)).fetchone())
        state = dict(database.execute("SELECT * FROM flow_run_state WHERE id = ?", (flow_run["state_id"],)).fetchone())
        for uid, stopped_s in stopped.items():
            moment = f"{datetime.fromtimestamp(stopped_s, UTC):%Y-%m-%d %H:%M:%S.%f}"
            times = {name: moment for name in flow_run if name.endswith("_time") or name in TIMES}
            ids = {"id": str(uuid.uuid4()), "state_id": str(uuid.uuid4())}
            key = submission_key(uid, DEPLOYMENT)
            copy = {**flow_run, **times, **ids, "idempotency_key": key, "next_scheduled_start_time": None}
            insert(database, "flow_run", copy)
            its = {"id": ids["state_id"], "flow_run_id": ids["id"], "timestamp": moment}
            insert(database, "flow_run_state", {**state, **its})


def insert(database: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    """Put a row into a table."""
    values = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", tuple(row.values()))


def reconciled(info: StackInfo, server: PrefectProcess, window: TimeWindow) -> float:
    """Return the median time, in seconds, that reconciling a window takes."""
    settings = Settings(tiled_uri=info.tiled_uri, tiled_api_key=info.tiled_api_key)
    seconds = []
    with (
        Catalog.connect(settings) as catalog,
        temporary_settings({PREFECT_API_URL: server.url}),
        PrefectApi(60, client_retries=True) as api,
    ):
        for _ in range(REPEATS):
            began = time.perf_counter()
            report = Reconciler(catalog, api, [Workflow(DEPLOYMENT)], settings).run(window)
            seconds.append(time.perf_counter() - began)
            if not report.all_processed or report.runs != WINDOW:
                raise SystemExit(f"Of {WINDOW} runs: {report.summary}")
    return statistics.median(seconds)


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
    """Build a catalog and measure three windows: the last runs, as many in the middle, ten times as many; then all."""
    with tempfile.TemporaryDirectory() as directory:
        with tiled(Path(directory)) as (server, info):
            make_containers(info, Settings(state_directory=Path(directory)))
        with status.status(f"Making a catalog of {runs:,} runs ..."):
            stopped = fill(server.catalog, runs, end_s)
            index_times(server.catalog)
        prefect = PrefectProcess(Path(directory))
        prefect.start()
        with status.status(f"Making {runs:,} flow runs ..."):
            fill_prefect(prefect, Path(directory), stopped)
        with tiled(Path(directory)) as (_, info), status.status(f"Measuring with {runs:,} runs ..."):
            length_s = WINDOW * BETWEEN_RUNS_S
            middle_s = end_s - runs * BETWEEN_RUNS_S / 2
            try:
                return [
                    measured(info, end_s - length_s, end_s, WINDOW),
                    measured(info, middle_s - length_s, middle_s, WINDOW),
                    measured(info, end_s - 10 * length_s, end_s, 10 * WINDOW),
                    (reconciled(info, prefect, TimeWindow(end_s - length_s, end_s)), 0),
                    (reconciled(info, prefect, TimeWindow(middle_s - length_s, middle_s)), 0),
                ]
            finally:
                prefect.kill()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="runs in the largest catalog")
    arguments = parser.parse_args()
    console = Console(width=150)
    finding = (f"find the last {WINDOW}", f"find {WINDOW} in the middle", f"find the last {10 * WINDOW}")
    all_of_it = (f"reconcile the last {WINDOW}", f"reconcile {WINDOW} in the middle")
    table = Table("runs", *finding, *all_of_it, title="Time for the runs of a window (requests to Tiled; ratio)")
    first: list[tuple[float, int]] = []
    for runs in sorted({min(size, arguments.runs) for size in (1_000, 10_000, arguments.runs)}):
        row = catalog_row(runs, time.time(), console)
        first = first or row
        table.add_row(
            f"{runs:,}",
            *(
                f"{1000 * seconds:.0f} ms ({f'{requests}; ' if requests else ''}{seconds / base:.2f})"
                for (seconds, requests), (base, _) in zip(row, first, strict=True)
            ),
        )
    console.print(table)


if __name__ == "__main__":
    main()
