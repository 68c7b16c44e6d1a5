"""A facility in small: many beamlines, two Prefect servers behind one address, two workers; one of each is killed.

Each beamline is a process that takes runs, of documents as a RunEngine makes them, through `PrefectCallback`, which
sends them to Prefect. All of them together take a run each second. With ``--recorded``, `RunRecorder` records the runs,
and each beamline has a courier that takes them to Tiled and Prefect: add ``--every 2`` then, since two cores carry no
more. The flow does nothing. A quarter of the way one Prefect server is killed, and replaced after some seconds; at
three fifths, one worker. The set-up is that of ``deploy/``.

Times count from the stop document to Prefect's own start and end of the flow run; a phase holds the runs that stopped
in it. "Lost" are runs without a flow run; "doubled" those with several. What the killed worker had under way stays
running in Prefect, until reconciliation finds it silent.

The processor time of each part is that of its processes and of all that they have started. What it takes where nobody
takes runs is measured at the end.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from tests.services.facility import Facility
from tests.services.postgres import empty_database
from tests.services.prefect_process import wait_until
from tests.services.streaming_tiled import KEY, StreamingTiled
from tests.services.worker_process import FINAL, WorkerProcess

from benchmarks.callback import percentile
from benchmarks.processor import ProcessorMeter
from bluesky_prefect import Settings
from bluesky_prefect.tiled_api import Catalog

FLOW = """
from prefect import flow


@flow
def trivial():
    pass
"""
POOL = "facility"
DOWN_S = 20.0
PAGE = 100
# Nothing takes this long: what is not done by then is not going to be.
LONGEST_S = 300.0
RUNNING_S = 30.0
IDLE_S = 20.0
DATABASE_USE = """
SELECT xact_commit AS commits, tup_inserted AS "rows inserted", tup_updated AS "rows updated",
    (SELECT wal_bytes FROM pg_stat_wal)::float / 1000 AS "kB of log",
    pg_database_size(datname)::float / 1000 AS "kB of database"
FROM pg_stat_database WHERE datname = current_database()
"""


@dataclass
class Beamline:
    """A process that takes runs, its courier, if any, and when its runs stopped, in seconds since the epoch, by uid."""

    courier: subprocess.Popen[bytes] | None
    process: subprocess.Popen[str]
    stops: dict[str, float] = field(default_factory=dict)

    def read(self) -> None:
        """Read what it prints until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            uid, stop = line.split()
            self.stops[uid] = float(stop)

    def close(self) -> None:
        """End its courier."""
        if self.courier is not None:
            self.courier.terminate()
            self.courier.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def start_tiled(folder: Path, opened: contextlib.ExitStack) -> StreamingTiled:
    """Start a Tiled server with a catalog of runs."""
    say("Starting Tiled")
    tiled = StreamingTiled(folder, streams=False)
    opened.callback(tiled.close)
    with Catalog.connect(Settings(tiled_uri=tiled.uri, tiled_api_key=SecretStr(KEY))) as catalog:
        catalog.make_raw()
    return tiled


def start_couriers(environment: Mapping[str, str], folder: Path, number: int) -> list[subprocess.Popen[bytes]]:
    """Start the couriers of so many beamlines, and wait until all are at work."""
    couriers, logs = [], []
    for one in range(number):
        logs.append(folder / f"courier-{one}.log")
        own = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(folder / f"beamline-{one}")}
        with logs[-1].open("ab") as log:
            command = [sys.executable, "-m", "bluesky_prefect", "courier"]
            couriers.append(subprocess.Popen(command, env={**environment, **own}, stdout=log, stderr=log))
    wait_until(lambda: all("is at work" in log.read_text() for log in logs), LONGEST_S)
    return couriers


def start_beamlines(
    environment: Mapping[str, str],
    folder: Path,
    workflow: str,
    couriers: Sequence[subprocess.Popen[bytes] | None],
    runs: int,
    every_s: float,
) -> list[Beamline]:
    """Start the processes that take runs, each of which takes one at once."""
    beamlines = []
    for one, courier in enumerate(couriers):
        state = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(folder / f"beamline-{one}")}
        command = [
            sys.executable,
            "-m",
            "tests.services.acquiring",
            workflow,
            str(runs),
            str(len(couriers) * every_s),
            "begins",
            *(["recorded"] if courier else []),
        ]
        with (folder / f"session-{one}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**environment, **state},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        beamlines.append(Beamline(courier, process))
        threading.Thread(target=beamlines[-1].read, daemon=True).start()
    wait_until(lambda: all(one.stops for one in beamlines), LONGEST_S)
    return beamlines


def begin(beamlines: list[Beamline], every_s: float) -> None:
    """Have them take their runs, one after the other."""
    for one in beamlines:
        assert one.process.stdin is not None
        one.stops.clear()
        one.process.stdin.write("\n")
        one.process.stdin.close()
        time.sleep(every_s)


def flow_runs_of(worker: WorkerProcess, uids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the flow runs of runs, by uid."""
    found: dict[str, list[dict[str, Any]]] = {uid: [] for uid in uids}
    for begin in range(0, len(uids), PAGE):
        tags = {"any_": [f"uid:{uid}" for uid in uids[begin : begin + PAGE]]}
        for one in worker.ask("POST", "/flow_runs/filter", flow_runs={"tags": tags}):
            for tag in one["tags"]:
                if tag.startswith("uid:"):
                    found[tag.removeprefix("uid:")].append(one)
    return found


async def database_use(url: str) -> dict[str, float]:
    """Return what was written to a database so far; the log is that of all databases of the server."""
    database = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
    try:
        return dict(await database.fetchrow(DATABASE_USE))
    finally:
        await database.close()


def seconds(values: list[float]) -> list[str]:
    if not values:
        return ["", "", ""]
    return [f"{percentile(values, share):.2f}" for share in (0.5, 0.95, 0.99)]


def report(
    console: Console, stops: dict[str, float], found: dict[str, list[dict[str, Any]]], phases: dict[str, float]
) -> None:
    """Show what became of the runs, by the phase in which they stopped; phases by their beginnings."""
    wanted = {"created": "stop to creation", "start_time": "to Running", "end_time": "to Completed"}
    table = Table("phase", "runs", *(text for one in wanted.values() for text in (f"{one}: p50", "p95", "p99")))
    names, begins = list(phases), [*phases.values(), float("inf")]
    for name, begin, end in zip(names, begins[:-1], begins[1:], strict=True):
        seen: dict[str, list[float]] = {key: [] for key in wanted}
        uids = [uid for uid, stop in stops.items() if begin <= stop < end]
        for uid in uids:
            for one in found[uid][:1]:
                for key, values in seen.items():
                    if one[key]:
                        values.append(datetime.fromisoformat(one[key]).timestamp() - stops[uid])
        table.add_row(name, str(len(uids)), *(text for values in seen.values() for text in seconds(values)))
    console.print(table)
    states = Counter(one["state_type"] for several in found.values() for one in several)
    console.print(
        f"{len(stops)} runs: {sum(not several for several in found.values())} lost, "
        f"{sum(len(several) > 1 for several in found.values())} doubled; flow runs: "
        + ", ".join(f"{number} {state.lower()}" for state, number in states.most_common())
    )


def show_use(
    console: Console, runs: int, used: dict[str, float], idle: dict[str, float], written: dict[str, float]
) -> None:
    """Show what each part took of the processor, and what the database wrote, for a run."""
    table = Table("part", "processor, s for a run", "nobody takes runs: % of a core", title="Processor time")
    for name in used:
        table.add_row(name, f"{used[name] / runs:.3f}", f"{100 * idle.get(name, 0.0) / IDLE_S:.1f}")
    table.add_row("all", f"{sum(used.values()) / runs:.3f}", f"{100 * sum(idle.values()) / IDLE_S:.1f}")
    console.print(table)
    console.print(
        "PostgreSQL, for a run: " + ", ".join(f"{name} {value / runs:,.1f}" for name, value in written.items())
    )


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def start_workers(facility: Facility, folder: Path, opened: contextlib.ExitStack) -> list[WorkerProcess]:
    """Start two workers on one work pool."""
    workers = []
    for number in range(2):
        (work := folder / f"worker-{number}").mkdir()
        workers.append(WorkerProcess(facility.api_url, work, POOL, user=facility.user))
        opened.callback(workers[-1].close)
    workers[0].make_pool()
    workers[0].preload(checked=False)
    for worker in workers:
        worker.start()
    return workers


def meter_of(
    facility: Facility,
    tiled: StreamingTiled | None,
    workers: list[WorkerProcess],
    acquiring: list[Beamline],
    database: str,
) -> ProcessorMeter:
    """Return the meter of all parts."""

    def parts() -> dict[str, list[int]]:
        running = list(facility.processes.items())
        return {
            "acquisition": [one.process.pid for one in acquiring],
            "couriers": [one.courier.pid for one in acquiring if one.courier],
            "Tiled": [tiled.pid] if tiled else [],
            "Prefect servers": [process.pid for name, process in running if name.startswith("server_")],
            "Prefect services": [process.pid for name, process in running if name == "services"],
            "HAProxy": [process.pid for name, process in running if name == "haproxy"],
            "Redis": [process.pid for name, process in running if name == "redis"],
            "workers, flow runs in them": [one.process.pid for one in workers if one.process],
        }

    # Debian's titles name the cluster in between.
    writing = (r"postgres: .*(checkpointer|background writer|walwriter|autovacuum)",)
    connected = (rf"postgres: .*\b{database.rpartition('/')[2]} ",)
    return ProcessorMeter(parts, {"PostgreSQL, connections": connected, "PostgreSQL, all databases": writing})


def kill_and_replace(
    facility: Facility, workers: list[WorkerProcess], began: float, length_s: float
) -> dict[str, float]:
    """Kill a server, and a worker, and replace each; return when each phase began."""
    phases = {"before": began}
    for share, what in ((0.25, "server"), (0.6, "worker")):
        time.sleep(max(0.0, began + share * length_s - time.time()))
        say(f"Killing a {what}")
        phases[f"{what} down"] = time.time()
        if what == "server":
            facility.kill("server_1")
        else:
            workers[0].stop(9)
        time.sleep(min(DOWN_S, length_s / 10))
        if what == "server":
            facility.start_server(1)
        else:
            workers[0].start()
        phases[f"after the {what} is back"] = time.time()
    return phases


def wait_for_flow_runs(worker: WorkerProcess, stops: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    """Return the flow runs of all runs, once none waits, and none runs that a killed worker has not left."""
    began = time.monotonic()
    while True:
        found = flow_runs_of(worker, list(stops))
        states = {several[0]["state_type"] if several else "" for several in found.values()}
        left_s = (LONGEST_S if states - FINAL - {"RUNNING"} else RUNNING_S) + began - time.monotonic()
        if states <= FINAL or left_s <= 0:
            return found
        time.sleep(2.0)


def measure(
    folder: Path, database: str, beamlines: int, minutes: float, every_s: float, *, faults: bool, recorded: bool
) -> None:
    """Measure, and show what was seen."""
    console = Console(width=150)
    with contextlib.ExitStack() as opened:
        say("Starting two Prefect servers, their services, Redis and HAProxy")
        facility = Facility(folder, database)
        opened.callback(facility.close)
        environment = {**os.environ, **facility.environment}
        tiled = start_tiled(folder, opened) if recorded else None
        if tiled:
            environment |= tiled.environment
        workers = start_workers(facility, folder, opened)
        (folder / "flows.py").write_text(FLOW)
        deployment = workers[1].ask("GET", f"/deployments/{workers[1].deploy('flows.py:trivial', folder)}")
        workflow = f"trivial/{deployment['name']}"
        runs = max(1, round(minutes * 60 / every_s / beamlines))
        couriers: Sequence[subprocess.Popen[bytes] | None] = [None] * beamlines
        if recorded:
            say(f"Starting {beamlines} couriers")
            couriers = start_couriers(environment, folder, beamlines)
        acquiring = start_beamlines(environment, folder, workflow, couriers, runs, every_s)
        for one in acquiring:
            opened.callback(one.close)
        # What is slow but once is over when each has had a run processed.
        wait_for_flow_runs(workers[1], {uid: stop for one in acquiring for uid, stop in one.stops.items()})
        say(f"{beamlines} beamlines take {runs} runs each")
        meter = opened.enter_context(meter_of(facility, tiled, workers, acquiring, database))
        began, before, written = time.time(), meter.used_s(), asyncio.run(database_use(database))
        begin(acquiring, every_s)
        phases = kill_and_replace(facility, workers, began, minutes * 60) if faults else {"all": began}
        for one in acquiring:
            one.process.wait(minutes * 60 + LONGEST_S)
        time.sleep(1.0)
        stops = {uid: stop for one in acquiring for uid, stop in one.stops.items()}
        found = wait_for_flow_runs(workers[1], stops)
        used = difference(meter.used_s(), before)
        written = difference(asyncio.run(database_use(database)), written)
        report(console, stops, found, phases)
        say("Nobody takes runs")
        before = meter.used_s()
        time.sleep(IDLE_S)
        show_use(console, len(stops), used, difference(meter.used_s(), before), written)
    say(f"Load of this machine now: {psutil.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beamlines", type=int, default=30, help="processes that take runs (30)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long they do so (10)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between the runs of all of them (1)")
    parser.add_argument("--recorded", action="store_true", help="through journals and couriers, to a Tiled server too")
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="kill nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, empty_database() as database:
        if database is None:
            raise SystemExit("This needs a PostgreSQL server, user postgres, at 127.0.0.1:5432.")
        size = arguments.beamlines, arguments.minutes, arguments.every
        measure(Path(folder), database, *size, faults=arguments.faults, recorded=arguments.recorded)


if __name__ == "__main__":
    main()
