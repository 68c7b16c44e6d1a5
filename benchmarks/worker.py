"""What a flow run costs from its creation to its end, by kind of worker and of database.

``my-workflow`` on real runs in a real Tiled, with a real Prefect server as the local stack runs it, and weather and
cat facts from a server on loopback. The workers are started as people start them: ``prefect worker start --pool ...``,
with their default settings. All wait side by side and take turns. One may run in another environment
("warm-process@PYTHON"), for example with another release of Prefect, or of this package. Times are Prefect's own, from
the state history of the flow runs. One burst has the machine for itself; beside another, half as large, scans go on,
and a column is what such a scan on simulated devices takes beside a worker that waits, and beside that burst.
Processor time is that of the first burst; "worker" has its flow runs in it. A shared machine is faster at one moment
than at another: a loop of five million additions is timed around each row.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
from bluesky import RunEngine
from bluesky.plan_stubs import one_nd_step, sleep
from bluesky.plans import count, scan
from bluesky.utils import MsgGenerator
from bluesky_tiled_plugins import TiledWriter
from prefect.settings import temporary_settings
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from tests.services.outside import cat_facts, open_meteo
from tests.services.postgres import empty_database
from tests.services.prefect_process import prefect_settings, wait_until
from tiled.client import from_uri

from bluesky_prefect.core import Settings
from bluesky_prefect.flows import my_workflow
from bluesky_prefect.prefect_api import deploy
from bluesky_prefect.sim import make_devices
from bluesky_prefect.stack import StackInfo
from bluesky_prefect.stack._database import parse_database
from bluesky_prefect.stack._info import StackPaths, stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._prefect import PrefectServer
from bluesky_prefect.stack._process import start_process, stop_processes
from bluesky_prefect.stack._service import Service
from bluesky_prefect.stack._tiled import TiledServer, make_containers
from bluesky_prefect.stack._worker import Worker

STOCK, WARM = "process", "warm-process"
SCANS = 15
POINTS = 21
POINT_S = 0.02
LOOK_EVERY_S = 0.5
# Nothing takes this long: what is not done by then is not going to be.
LONGEST_S = 900.0
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Result:
    """What was measured with one worker on one database; seconds."""

    running: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)
    creates: list[float] = field(default_factory=list)
    burst: float = 0.0
    failed: int = 0
    loops: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    scan_idle: float = 0.0
    scan_busy: float = 0.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def servers(home: Path, url: str, outside: dict[str, str]) -> Iterator[tuple[StackInfo, Settings, dict[str, int]]]:
    """Run Tiled and Prefect as the local stack does, with its priorities, but without its worker; give their pids."""
    settings = Settings(state_directory=home, prefect_database_url=SecretStr(url), **outside)
    paths = StackPaths(home)
    for directory in (paths.logs, paths.images):
        directory.mkdir(parents=True)
    keys = StackKeys.load_or_make(paths)
    tiled = TiledServer(paths, free_port(), keys.tiled.get_secret_value())
    database = parse_database(SecretStr(url), paths)
    prefect = PrefectServer(paths, free_port(), keys.prefect.get_secret_value(), database)
    services: list[Service] = [tiled, prefect]
    started = []
    try:
        for service in services:
            service.prepare()
            started.append(start(paths, service.name, service.command(), service.environment(), service))
        for service in services:
            wait_until(service.is_ready, timeout_s=180)
        info = stack_info(settings, {"tiled": tiled.port, "prefect": prefect.port}, keys)
        make_containers(info, settings)
        yield info, settings, {service.name: process.pid for service, process in zip(services, started, strict=True)}
    finally:
        stop_processes(started)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(paths: StackPaths, name: str, command: list[str], environment: dict[str, str], like: Service) -> Any:
    return start_process(
        command,
        environment,
        directory=paths.root,
        log=paths.logs / f"{name}.log",
        port=None,
        umask=like.umask,
        niceness=like.niceness,
    )


@contextlib.contextmanager
def worker(info: StackInfo, settings: Settings, number: int, name: str, limit: int | None) -> Iterator[tuple[str, int]]:
    """Run a worker of this type on a work pool of its own; give the id of the deployment there, and the pid."""
    kind, _, python = name.partition("@")
    paths, pool = StackPaths(info.state_directory), f"bench-{kind}-{number}"
    ours = Worker(paths, info, settings)
    ours.prepare()
    environment = ours.environment()
    # The stack's own worker asks for work more often than by default.
    environment.pop("PREFECT_WORKER_QUERY_SECONDS", None)
    prefect = [python or sys.executable, "-m", "prefect"]
    make_pool = [*prefect, "work-pool", "create", pool, "--type", kind]
    made = subprocess.run(make_pool, env={**os.environ, **environment}, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"No work pool of type {kind}: {made.stdout}{made.stderr}")
    with temporary_settings(prefect_settings(info)):
        deployment = anyio.run(partial(deploy, my_workflow, pool, pool))
    command = [*prefect, "worker", "start", "--pool", pool, "--type", kind]
    command += [] if limit is None else ["--limit", str(limit)]
    process = start(paths, f"worker-{pool}", command, environment, ours)
    try:
        workers = partial(info.ask_prefect, f"work_pools/{pool}/workers/filter", body={})
        wait_until(lambda: workers() or not process.is_alive())
        if not process.is_alive():
            raise SystemExit(f"The worker ended:\n{process.log_tail()}")
        yield info.ask_prefect(f"deployments/name/{deployment}")["id"], process.pid
    finally:
        stop_processes([process])


class Bench:
    """One RunEngine with its runs in Tiled, and the flow runs on them."""

    def __init__(self, info: StackInfo) -> None:
        self._ask = info.ask_prefect
        self._devices = make_devices(info.images)
        self._engine = RunEngine({"user": "bench"})
        root = from_uri(info.tiled_uri, api_key=info.tiled_api_key.get_secret_value())
        self._engine.subscribe(TiledWriter(root["raw"]))

    def take_run(self) -> str:
        """Take a run and return its uid."""
        [uid] = self._engine(count([self._devices.det, self._devices.noisy_det], 5))
        return uid

    def scan_s(self) -> float:
        """Return how long a scan takes that waits `POINT_S` for its detector at each point."""

        def one(detectors: Any, step: Any, pos_cache: Any) -> MsgGenerator[None]:
            yield from one_nd_step(detectors, step, pos_cache)
            yield from sleep(POINT_S)

        began = time.perf_counter()
        self._engine(scan([self._devices.det], self._devices.motor, -3, 3, POINTS, per_step=one))
        return time.perf_counter() - began

    def create(self, deployment: str, uid: str, result: Result) -> str:
        """Create a flow run on a run, as the forwarder does; note how long that takes."""
        began = time.perf_counter()
        body = {"parameters": {"ref": uid}, "state": {"type": "SCHEDULED"}, "idempotency_key": f"{deployment}-{uid}"}
        made = self._ask(f"deployments/{deployment}/create_flow_run", body=body, timeout_s=120)
        result.creates.append(time.perf_counter() - began)
        return made["id"]

    def ended(self, flow_runs: list[str]) -> list[dict[str, Any]] | None:
        """Return the flow runs once all have ended, None before."""
        body = {"flow_runs": {"id": {"any_": flow_runs}}}
        found = self._ask("flow_runs/filter", body=body, timeout_s=120)
        return found if all(one["state_type"] in ENDED for one in found) else None

    def single(self, deployment: str, result: Result) -> None:
        """Process one run and note when it was running, and completed."""
        flow_run = self.create(deployment, self.take_run(), result)
        [found] = wait_until(lambda: self.ended([flow_run]), timeout_s=LONGEST_S)
        if found["state_type"] != "COMPLETED":
            result.failed += 1
            say(f"  {found['name']} is {found['state_name']}: {found['state']['message']}")
            return
        created = moment(found["created"])
        result.running.append(moment(found["start_time"]) - created)
        result.completed.append(moment(found["end_time"]) - created)

    def burst(self, deployment: str, number: int, result: Result, *, scanning: bool) -> float:
        """Create flow runs at once and return how long all of them took; scan meanwhile, or leave the machine alone."""
        uids = [self.take_run() for _ in range(number)]
        flow_runs = [self.create(deployment, uid, result) for uid in uids]
        deadline, busy, found = time.monotonic() + LONGEST_S, [], None
        while not (found := self.ended(flow_runs)) and time.monotonic() < deadline:
            if scanning:
                busy.append(self.scan_s())
            else:
                time.sleep(LOOK_EVERY_S)
        if not found:
            raise SystemExit(f"A burst of {number} flow runs was not done after {LONGEST_S:.0f} s")
        result.failed += sum(one["state_type"] != "COMPLETED" for one in found)
        if scanning:
            # The first and the last may have been beside less work.
            result.scan_busy = statistics.median(busy[1:-1] or busy or [0.0])
        ends = [moment(one["end_time"]) for one in found if one["end_time"]]
        return max(ends) - min(moment(one["created"]) for one in found)


def loop_s() -> float:
    """Return the processor time that a loop takes: how fast this machine is at the moment."""
    began, total = time.process_time(), 0
    for number in range(5_000_000):
        total += number
    return time.process_time() - began


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def cpu_s(pid: int) -> float:
    """Return the processor time of a process and of all that it has started, in seconds; 0 if it has just ended."""
    try:
        process = psutil.Process(pid)
        of_children = sum(cpu_s(child.pid) for child in process.children())
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system + of_children


def measure_singles(bench: Bench, deployments: dict[str, str], runs: int, results: dict[str, Result]) -> None:
    """Process runs one at a time, with each worker in turn."""
    for deployment in deployments.values():
        bench.single(deployment, Result())  # what is slow but once
    for _ in range(runs):
        for name, deployment in deployments.items():
            bench.single(deployment, results[name])


def measure_burst(bench: Bench, deployment: str, burst: int, pids: dict[str, int], result: Result) -> None:
    """Process many runs at once, first without and then beside scans."""
    result.scan_idle = statistics.median(bench.scan_s() for _ in range(SCANS))
    result.loops.append(loop_s())
    if burst:
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        result.burst = bench.burst(deployment, burst, result, scanning=False)
        result.cpu = {name: (cpu_s(pid) - before[name]) / burst for name, pid in pids.items()}
        say(f"  burst: {result.burst:.1f} s, {result.failed} not completed")
        bench.burst(deployment, max(burst // 2, 1), result, scanning=True)
    result.loops.append(loop_s())


def spread(seconds: list[float]) -> str:
    """Return median and range."""
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def on_database(kind: str, arguments: argparse.Namespace) -> dict[tuple[str, str], Result]:
    """Measure all workers on a database."""
    weather, facts = open_meteo(), cat_facts()
    outside = {"weather_archive_url": weather.url, "weather_forecast_url": weather.url, "cat_fact_url": facts.url}
    with contextlib.ExitStack() as stack:
        stack.callback(weather.close)
        stack.callback(facts.close)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = "sqlite" if kind == "sqlite" else stack.enter_context(empty_database())
        if url is None:
            say("No PostgreSQL server on this machine: left out")
            return {}
        say(f"{kind}: starting the servers")
        info, settings, pids = stack.enter_context(servers(home / "state", url, outside))
        bench = Bench(info)
        deployments, workers = {}, {}
        for number, name in enumerate(arguments.workers):
            say(f"{kind}, {name}: starting the worker")
            one = worker(info, settings, number, name, arguments.limit)
            deployments[name], workers[name] = stack.enter_context(one)
        of_kind = {name: Result() for name in arguments.workers}
        measure_singles(bench, deployments, arguments.runs, of_kind)
        for name, result in of_kind.items():
            say(f"{kind}, {name}: creation to Completed {spread(result.completed)} s")
            measure_burst(bench, deployments[name], arguments.burst, {**pids, "worker": workers[name]}, result)
    return {(name, kind): result for name, result in of_kind.items()}


def show(results: dict[tuple[str, str], Result], burst: int) -> None:
    table = Table(
        "worker",
        "database",
        "creation to RUNNING",
        "creation to Completed",
        f"burst of {burst}",
        "not completed",
        "to create: median, most",
        "scan beside it: idle, busy (ratio)",
        "processor time a flow run",
        "loop",
        title="Seconds; medians (and ranges)",
    )
    for (name, kind), result in results.items():
        busy = f"{result.scan_idle:.2f}, {result.scan_busy:.2f} ({result.scan_busy / result.scan_idle:.2f})"
        table.add_row(
            name,
            kind,
            spread(result.running),
            spread(result.completed),
            f"{result.burst:.1f}" if burst else "-",
            str(result.failed),
            f"{statistics.median(result.creates):.3f}, {max(result.creates):.2f}",
            busy if burst else f"{result.scan_idle:.2f}",
            ", ".join(f"{who} {used:.2f}" for who, used in result.cpu.items()),
            " to ".join(f"{loop:.2f}" for loop in sorted(result.loops)),
        )
    console = Console(width=170)
    console.print(table)
    for kind in {kind for _, kind in results}:
        stock, warm = results.get((STOCK, kind)), results.get((WARM, kind))
        if stock and warm and stock.running and warm.running:
            ratios = [
                statistics.median(stock.running) / statistics.median(warm.running),
                statistics.median(stock.completed) / statistics.median(warm.completed),
                stock.burst / warm.burst if burst else float("nan"),
            ]
            words = "{:.0f} times sooner RUNNING, {:.0f} times sooner Completed, {:.1f} times the throughput"
            console.print(f"{kind}: with {WARM} " + words.format(*ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", nargs="+", default=[STOCK, WARM], help="worker types")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--runs", type=int, default=7, help="single flow runs, one after the other")
    parser.add_argument("--burst", type=int, default=20, help="flow runs at once; 0 leaves the burst out")
    parser.add_argument("--limit", type=int, default=2, help="flow runs that a worker executes at once")
    arguments = parser.parse_args()
    results: dict[tuple[str, str], Result] = {}
    for kind in arguments.databases:
        results |= on_database(kind, arguments)
    show(results, arguments.burst)
    say(f"Load of this machine now: {psutil.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
