"""What a backlog costs: an outage has left thousands of runs in the outbox, Prefect is back, and scans go on.

One process takes scans (a stop document each 100 ms) while its forwarder works off the backlog; a stand-in for
Prefect's API, in a process of its own, answers as fast as it is asked. SQLite and HTTP are real. What an outbox costs
as it grows: ``benchmarks.growth``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.callback import DEPLOYMENT, START, _run, percentile
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.outbox import Outbox

INTERVAL_S = 0.1
IDLE_STOPS = 300
LONGEST_S = 240.0
INSERT = (
    "INSERT INTO entries (key, run_uid, deployment, submission, state, created, changed) "
    "VALUES (?, ?, ?, ?, 'waiting', ?, ?)"
)


def fill(path: Path, runs: int) -> None:
    """Put runs of an hour ago in an outbox in one transaction: each with its own fsync takes minutes."""
    then = time.time() - 3600.0

    def row(number: int) -> tuple:
        uid = f"old-{number}"
        stop = {"run_start": uid, "uid": f"{uid}-stop", "exit_status": "success", "num_events": {"primary": 101}}
        submission = Submission(
            submission_key(uid, DEPLOYMENT), DEPLOYMENT, DEPLOYMENT, uid, {**START, "uid": uid, "scan_id": number}, stop
        )
        return (submission.key, uid, DEPLOYMENT, submission.to_json(), then, then)

    outbox = Outbox(path)
    with outbox._durable.change("it cannot be filled") as connection:
        connection.executemany(INSERT, map(row, range(runs)))
    outbox.close()


def resident_mb() -> float:
    """Return how much memory this process has, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(backlog: int) -> None:
    """Take scans in this process while the backlog is worked off, and print what was measured as JSON."""
    from bluesky_prefect import PrefectCallback

    callback = PrefectCallback(DEPLOYMENT)
    _run(callback, "warm-up")
    while callback.outbox.counts().sent == 0:  # Prefect is being imported
        time.sleep(0.05)
    before_mb = resident_mb()
    stops = []
    began = time.monotonic()
    while len(stops) < IDLE_STOPS if backlog == 0 else callback.outbox.counts().waiting > 1:
        time.sleep(INTERVAL_S)
        seconds = _run(callback, f"fresh-{len(stops)}")
        stops.append((seconds, time.time()))
        if time.monotonic() - began > LONGEST_S:
            break
    after_mb = resident_mb()
    callback.close()
    print(json.dumps({"stops": stops, "before_mb": before_mb, "after_mb": after_mb}))


def measured(backlog: int) -> dict:
    """Return what `measure` printed, and what the stand-in was asked for."""
    with tempfile.TemporaryDirectory() as state:
        fill(Path(state) / "outbox.sqlite", backlog)
        command = [sys.executable, "-m", "tests.services.prefect_stand_in"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = server.stdout.readline().strip()
                environment = {
                    **os.environ,
                    "PREFECT_API_URL": url,
                    "PREFECT_HOME": f"{state}/prefect",
                    "BLUESKY_PREFECT_STATE_DIRECTORY": state,
                }
                command = [sys.executable, "-m", "benchmarks.backlog", "--measure", str(backlog)]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
                return {**json.loads(done.stdout), **httpx.get(f"{url}/created").json()}
            finally:
                server.kill()


def positions(result: dict) -> list[int]:
    """Return, for each run taken meanwhile, how many submissions were sent between its stop and its own."""
    created = {key.partition(":")[0]: at for key, at in result["created"].items()}
    moments = sorted(created.values())
    found = []
    for number, (_, stopped_at) in enumerate(result["stops"]):
        if sent_at := created.get(f"fresh-{number}"):
            found.append(sum(stopped_at < moment < sent_at for moment in moments))
    return found


def row(table: Table, title: str, result: dict, idle: dict) -> None:
    stops, idle_stops = ([seconds for seconds, _ in one["stops"]] for one in (result, idle))
    old = [at for key, at in result["created"].items() if key.startswith("old-")]
    behind = positions(result)
    figures = [
        (statistics.median(stops), statistics.median(idle_stops)),
        (percentile(stops, 0.99), percentile(idle_stops, 0.99)),
    ]
    table.add_row(
        title,
        f"{len(old) / (max(old) - min(old)):.0f}" if old else "",
        f"{result['before_mb']:.0f}",
        f"{result['after_mb']:.0f}",
        f"{statistics.median(behind):.0f} / {max(behind)}",
        *(f"{1000 * value:.2f} ({value / reference:.1f} x)" for value, reference in figures),
        str(result["repeated"]),
    )


def backlog_table(console: Console, sizes: list[int]) -> None:
    table = Table(
        "Backlog",
        "runs/s",
        "RSS before, MB",
        "after",
        "sent before a fresh run: median / most",
        "stop, median ms (to idle)",
        "99 % within",
        "sent twice",
        title="Scans go on while a backlog is worked off",
    )
    with console.status("Measuring without a backlog ..."):
        idle = measured(0)
    row(table, "none", idle, idle)
    for size in sizes:
        with console.status(f"Measuring {size} ..."):
            row(table, f"{size:,}", measured(size), idle)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, nargs="*", default=[1_000, 10_000], help="sizes of the backlog")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure)
        return
    backlog_table(Console(width=140), arguments.backlog)


if __name__ == "__main__":
    main()
