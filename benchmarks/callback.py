"""What the callback costs the RunEngine: time per stop and per event document, and what its import adds.

Each row is measured in a process of its own, stops a fixed time apart as the runs of a fast scan are. Prefect is a real
server on loopback: up, down (nobody listens) and black-holed (it accepts and never answers).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.services.prefect_process import PrefectProcess

DEPLOYMENT = "my-workflow/local"
EVENTS = 100_000
# A start document as a beamline writes it.
START = {
    "time": 1.7e9,
    "plan_name": "scan",
    "plan_type": "generator",
    "detectors": ["det"],
    "motors": ["motor"],
    "num_points": 101,
    "plan_args": {"detectors": ["SynGauss(...)"], "num": 101, "args": ["SynAxis(...)", -5, 5]},
    "hints": {"dimensions": [[["motor"], "primary"]]},
    "sample": {"name": "Fe2O3", "composition": {"Fe": 2, "O": 3}, "thickness_um": 12.5},
    "proposal": {"id": 312345, "title": "x" * 80, "users": ["A. Scientist", "B. Scientist"]},
    "versions": {"bluesky": "1.15.1", "ophyd": "1.11.2"},
}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(stops: int, interval_s: float) -> None:
    """Measure in this process and print the result as JSON."""
    from bluesky_prefect import PrefectCallback

    callback = PrefectCallback(DEPLOYMENT)
    warm_up = time.monotonic() + 12  # by then the forwarder has imported Prefect and met it
    _run(callback, "warm-up")
    time.sleep(max(0.0, warm_up - time.monotonic()))
    seconds = []
    for number in range(stops):
        time.sleep(interval_s)
        seconds.append(_run(callback, f"{os.getpid()}-{number}"))
    event = {"seq_num": 1, "data": {"det": 1.0}, "timestamps": {"det": 1.0}, "time": 1.0, "filled": {}}
    began = time.perf_counter()
    for _ in range(EVENTS):
        callback("event", event)
    per_event = (time.perf_counter() - began) / EVENTS
    print(json.dumps({"stops": seconds, "event": per_event}), flush=True)
    os._exit(0)  # what waits is the business of no later session


def _run(callback, uid: str) -> float:
    callback("start", {**START, "uid": uid, "scan_id": 1})
    stop = {
        "run_start": uid,
        "uid": uid + "-stop",
        "exit_status": "success",
        "num_events": {"primary": 101},
        "time": 1.0,
    }
    began = time.perf_counter()
    callback("stop", stop)
    return time.perf_counter() - began


def measured(url: str, stops: int, interval_s: float) -> dict:
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "PREFECT_API_URL": url, "BLUESKY_PREFECT_STATE_DIRECTORY": state}
        command = [sys.executable, "-m", "benchmarks.callback", "--measure", str(stops), str(interval_s)]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(result.stdout)


def import_seconds(code: str, repeats: int = 15) -> float:
    """Return the median time that an interpreter takes to run `code`, in seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def disk_row(table: Table, stops: int) -> None:
    """Add the floor: what one fsync of a small append costs on this disk."""
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "file").open("wb") as file:
        seconds = []
        for _ in range(stops):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    table.add_row("an fsync alone, for comparison", *_milliseconds(seconds), "")


def _milliseconds(seconds: list[float]) -> list[str]:
    return [f"{1000 * value:.2f}" for value in (statistics.median(seconds), percentile(seconds, 0.99), max(seconds))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=400, help="stop documents per row")
    parser.add_argument("--measure", nargs=2, metavar=("STOPS", "INTERVAL_S"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(int(arguments.measure[0]), float(arguments.measure[1]))
    console = Console(width=120)
    table = Table(
        "Prefect",
        "median ms",
        "p99 ms",
        "most ms",
        "µs per event",
        title="Time that the callback holds the RunEngine per stop",
    )
    with tempfile.TemporaryDirectory() as home:
        server = PrefectProcess(Path(home))
        try:
            with console.status("Starting a Prefect server ..."):
                server.start()
                server.deploy(DEPLOYMENT, "ref", ref={})
            rows(console, table, server, arguments.stops)
        finally:
            server.kill()
    disk_row(table, arguments.stops)
    console.print(table)
    base = import_seconds("import event_model")
    added = import_seconds("import event_model, bluesky_prefect") - base
    used = import_seconds("import event_model; from bluesky_prefect import PrefectCallback, Workflow") - base
    console.print(f"import bluesky_prefect adds {added:.3f} s to event_model's {base:.3f} s")
    console.print(f"from bluesky_prefect import PrefectCallback, Workflow adds {used:.3f} s")


def rows(console: Console, table: Table, server: PrefectProcess, stops: int) -> None:
    def row(title: str, url: str, interval_s: float) -> None:
        with console.status(f"Measuring: {title} ..."):
            result = measured(url, stops, interval_s)
        table.add_row(title, *_milliseconds(result["stops"]), f"{1e6 * result['event']:.2f}")

    row("up, a stop each 100 ms", server.url, 0.1)
    row("up, one stop after the other", server.url, 0.0)
    server.send_signal(signal.SIGSTOP)
    row("black-holed, a stop each 100 ms", server.url, 0.1)
    server.send_signal(signal.SIGCONT)
    server.kill()
    row("down, a stop each 100 ms", server.url, 0.1)


if __name__ == "__main__":
    main()
