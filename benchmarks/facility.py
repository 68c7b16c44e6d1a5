"""A facility in small: many beamlines, two Prefect servers behind one address, two workers; one of each is killed.

Each beamline is a process that takes runs, of documents as a RunEngine makes them, through `PrefectCallback`. All of
them together take one run a second. The flow does nothing. A quarter of the way one Prefect server is killed, and
replaced after some seconds; at three fifths, one worker. The set-up is that of ``deploy/``.

Times count from the stop document to Prefect's own start and end of the flow run; a phase holds the runs that stopped
in it. "Lost" are runs without a flow run; "doubled" those with several. What the killed worker had under way stays
running in Prefect, until reconciliation finds it silent.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from tests.services.facility import Facility
from tests.services.postgres import empty_database
from tests.services.worker_process import WorkerProcess

from benchmarks.callback import percentile

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


@dataclass
class Beamline:
    """A process that takes runs, and the stop times of those, in seconds since the epoch, by their uids."""

    process: subprocess.Popen[str]
    stops: dict[str, float] = field(default_factory=dict)

    def read(self) -> None:
        """Read what it prints until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            uid, stop = line.split()
            self.stops[uid] = float(stop)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def start_beamlines(facility: Facility, folder: Path, workflow: str, number: int, runs: int) -> list[Beamline]:
    """Start them a second apart, so that their runs are too."""
    beamlines = []
    for one in range(number):
        state = {"BLUESKY_PREFECT_STATE_DIRECTORY": str(folder / f"beamline-{one}")}
        command = [sys.executable, "-m", "tests.services.acquiring", workflow, str(runs), str(number)]
        process = subprocess.Popen(
            command, env={**os.environ, **facility.environment, **state}, stdout=subprocess.PIPE, text=True
        )
        beamlines.append(Beamline(process))
        threading.Thread(target=beamlines[-1].read, daemon=True).start()
        time.sleep(1.0)
    return beamlines


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


def used_s(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Return the processor time of processes and of their children that have ended, in seconds."""
    used = {}
    for name, process in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[name] = times.user + times.system + times.children_user + times.children_system
    return used


def seconds(values: list[float]) -> list[str]:
    if not values:
        return ["", "", ""]
    return [f"{percentile(values, share):.2f}" for share in (0.5, 0.95, 0.99)]


def report(
    console: Console, stops: dict[str, float], found: dict[str, list[dict[str, Any]]], phases: dict[str, float]
) -> None:
    """Show what became of the runs, by the phase in which they stopped; phases by their beginnings."""
    table = Table("phase", "runs", "stop to Running: p50", "p95", "p99", "to Completed: p50", "p95", "p99")
    names, begins = list(phases), [*phases.values(), float("inf")]
    for name, begin, end in zip(names, begins[:-1], begins[1:], strict=True):
        to_running, to_completed = [], []
        uids = [uid for uid, stop in stops.items() if begin <= stop < end]
        for uid in uids:
            for one in found[uid][:1]:
                for key, values in (("start_time", to_running), ("end_time", to_completed)):
                    if one[key]:
                        values.append(datetime.fromisoformat(one[key]).timestamp() - stops[uid])
        table.add_row(name, str(len(uids)), *seconds(to_running), *seconds(to_completed))
    console.print(table)
    states = Counter(one["state_type"] for several in found.values() for one in several)
    console.print(
        f"{len(stops)} runs: {sum(not several for several in found.values())} lost, "
        f"{sum(len(several) > 1 for several in found.values())} doubled; flow runs: "
        + ", ".join(f"{number} {state.lower()}" for state, number in states.most_common())
    )


def measure(folder: Path, database: str, beamlines: int, minutes: float) -> None:
    """Measure, and show what was seen."""
    console = Console(width=150)
    with contextlib.ExitStack() as opened:
        say("Starting two Prefect servers, their services, Redis and HAProxy")
        facility = Facility(folder, database)
        opened.callback(facility.close)
        workers = []
        for _ in range(2):
            (work := folder / f"worker-{len(workers)}").mkdir()
            workers.append(WorkerProcess(facility.api_url, work, POOL, user=facility.user))
            opened.callback(workers[-1].close)
        workers[0].make_pool()
        workers[0].preload(checked=False)
        for worker in workers:
            worker.start()
        (folder / "flows.py").write_text(FLOW)
        deployment = workers[1].ask("GET", f"/deployments/{workers[1].deploy('flows.py:trivial', folder)}")
        runs = max(1, round(minutes * 60 / beamlines))
        say(f"{beamlines} beamlines take {runs} runs each")
        began = time.time()
        acquiring = start_beamlines(facility, folder, f"trivial/{deployment['name']}", beamlines, runs)
        parts = {name: psutil.Process(process.pid) for name, process in facility.processes.items()}
        parts |= {f"worker {number}": psutil.Process(one.process.pid) for number, one in enumerate(workers, 1)}
        before = used_s(parts)
        phases = {"before": began}
        for share, what in ((0.25, "server"), (0.6, "worker")):
            time.sleep(max(0.0, began + share * minutes * 60 - time.time()))
            say(f"Killing a {what}")
            phases[f"{what} down"] = time.time()
            if what == "server":
                facility.kill("server_1")
            else:
                workers[0].stop(9)
            time.sleep(DOWN_S)
            if what == "server":
                facility.start_server(1)
            else:
                workers[0].start()
            phases[f"after the {what} is back"] = time.time()
        for one in acquiring:
            one.process.wait(minutes * 60 + LONGEST_S)
        time.sleep(1.0)
        stops = {uid: stop for one in acquiring for uid, stop in one.stops.items()}
        deadline = time.monotonic() + LONGEST_S
        while True:
            found = flow_runs_of(workers[1], list(stops))
            waiting = [1 for several in found.values() if not several or several[0]["state_type"] == "SCHEDULED"]
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(2.0)
        report(console, stops, found, phases)
        used = used_s(parts)
        console.print(
            "Processor, seconds for a run: "
            + ", ".join(f"{name} {(used[name] - before[name]) / len(stops):.3f}" for name in used if name in before)
        )
        for one in acquiring:
            if one.process.stdout is not None:
                one.process.stdout.close()
    say(f"Load of this machine now: {psutil.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beamlines", type=int, default=30, help="processes that take runs (30)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long they do so (10)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, empty_database() as database:
        if database is None:
            raise SystemExit("This needs a PostgreSQL server, user postgres, at 127.0.0.1:5432.")
        measure(Path(folder), database, arguments.beamlines, arguments.minutes)


if __name__ == "__main__":
    main()
