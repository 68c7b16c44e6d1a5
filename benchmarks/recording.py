"""What recording costs a scan, and how soon Tiled and Prefect have its run.

Three sessions take turns on one local stack, each a process of its own: bare (a RunEngine without callbacks), inline
(``TiledWriter`` on the RunEngine's thread, then `PrefectCallback`, which sends by itself) and recorder (`RunRecorder`
and `PrefectCallback`; the stack's courier takes journals to Tiled and submissions to Prefect). The order changes from
one turn to the next, so that what else goes on on the machine falls on all alike.

"Idle" begins each scan a second after the last one's flow run has ended; "busy" keeps two flow runs of ``my-workflow``
under way. The time until Tiled has a run counts from its stop document's time to an answer of Tiled that holds the stop
document; the time until Completed is Prefect's own. Weather and cat facts refuse. Memory is the courier's, beside the
number of runs that it has taken to Tiled; those are journals that this process writes, without an outbox.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from event_model import compose_run
from rich.console import Console
from rich.table import Table

from benchmarks.callback import percentile
from bluesky_prefect.core import Settings, StackError, submission_key
from bluesky_prefect.journal import JournalDirectory, RunRecorder
from bluesky_prefect.stack import LocalStack, StackInfo

BARE, INLINE, RECORDER = "bare", "inline", "recorder"
WAYS = (BARE, INLINE, RECORDER)
# The floor: what the disk needs to have a start or a stop for good; in the place of an event, how long a tenth of a
# millisecond of computing takes.
FLOOR = "the machine alone"
DEPLOYMENT = "my-workflow/local"
CALLBACK = "stop: PrefectCallback's part"
KINDS = ("start", "descriptor", "event", "stop")
POINTS, GAP_S, SHORT_GAP_S = 11, 1.0, 0.1
TOGETHER = 10
FLOW_RUNS_UNDER_WAY = 2
# What the courier may have before it when its memory is measured.
MAX_WAITING = 20
LOOK_EVERY_S = 0.25
# Nothing takes this long: what is not done by then is not going to be.
LONGEST_S = 300.0
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
UNDER_WAY = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]
# What it is to be.
AIM_RATIO, AIM_ANY_MS, AIM_STOP_MS, AIM_EVENTS = 1.25, 1.0, 5.0, 20_000


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    scans: int
    documents: int
    repeats: int
    points: int
    frames: int
    together_points: int
    events: int
    endurance: int

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Sizes":
        """Return the sizes that the command line asks for."""
        scans, endurance = arguments.scans, arguments.endurance
        if arguments.quick:
            return cls(scans or 3, 10, 1, 100, 5, 5, 10_000, endurance or 40)
        return cls(scans or 20, 100, 3, 1_000, 50, 20, 100_000, endurance or 300)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# The process that is a session.


class Timed:
    """A callback that calls others, and notes how long they take together for each document, in seconds."""

    def __init__(self, callbacks: list[Callable[[str, Any], Any]]) -> None:
        self._callbacks = callbacks
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)
        self.stops: dict[str, float] = {}

    def __call__(self, name: str, doc: Any) -> None:
        """Take one document."""
        began = last = time.perf_counter()
        for callback in self._callbacks:
            last = time.perf_counter()
            callback(name, doc)
        ended = time.perf_counter()
        self.seconds[name].append(ended - began)
        if name == "stop":
            self.seconds[CALLBACK].append(ended - last)
            self.stops[doc["run_start"]] = doc["time"]


def be_session(way: str, images: Path) -> None:
    """Carry out orders, a JSON object a line, and answer each with one."""
    from bluesky import RunEngine

    from bluesky_prefect.sim import make_devices

    timed = Timed(callbacks_of(way))
    engine = RunEngine({"user": "bench"})
    if way != BARE:
        engine.subscribe(timed)
    devices = make_devices(images)
    print("{}", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        timed.seconds.clear()
        timed.stops.clear()
        if order["what"] == "events":
            emit: Callable[[], Any] = event_emitter(timed, order["number"])
        else:
            emit = plan_emitter(engine, devices, order)
        began = time.perf_counter()
        emit()
        taken = time.perf_counter() - began
        print(json.dumps({"s": taken, "documents": timed.seconds, "stops": timed.stops}), flush=True)
    os._exit(0)  # nothing waits that is still looked at


def callbacks_of(way: str) -> list[Callable[[str, Any], Any]]:
    """Return what a session subscribes."""
    if way == BARE:
        return []
    from bluesky_prefect import PrefectCallback, Workflow
    from bluesky_prefect.core import get_settings

    starts = PrefectCallback(Workflow(DEPLOYMENT, when=lambda run: run.start.get("process") is True))
    if way == RECORDER:
        return [RunRecorder(), starts]
    from bluesky_tiled_plugins import TiledWriter

    from bluesky_prefect.tiled_api import Catalog

    return [TiledWriter(Catalog.connect(get_settings()).raw_for_writing()), starts]


def plan_emitter(engine: Any, devices: Any, order: dict[str, Any]) -> Callable[[], Any]:
    """Return what runs the plan of an order."""
    from bluesky.plans import count, scan

    number, metadata = order["number"], {"process": bool(order.get("process"))}
    if order["what"] == "frames":
        plan = count([devices.image_det], number, md=metadata)
    elif order["what"] == "together":
        plan = interleaved(devices.det, number, metadata)
    else:
        plan = scan([devices.det], devices.motor, -5, 5, number, md=metadata)
    return lambda: engine(plan)


def interleaved(detector: Any, points: int, metadata: dict[str, Any]) -> Iterator[Any]:
    """Take the events of several runs in turn."""
    from bluesky.plan_stubs import close_run, open_run, trigger_and_read
    from bluesky.preprocessors import set_run_key_wrapper

    keys = [f"run-{number}" for number in range(TOGETHER)]
    for key in keys:
        yield from set_run_key_wrapper(open_run({"plan_name": "interleaved", **metadata}), key)
    for _ in range(points):
        for key in keys:
            yield from set_run_key_wrapper(trigger_and_read([detector]), key)
    for key in keys:
        yield from set_run_key_wrapper(close_run(), key)


def event_emitter(callback: Callable[[str, Any], Any], number: int) -> Callable[[], None]:
    """Return what emits a run with so many events, as fast as the callback takes them."""
    documents = small_run(number, plan_name="full_speed")

    def emit() -> None:
        for name, doc in documents:
            callback(name, doc)

    return emit


def small_run(events: int, **metadata: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of a run; events by hand, since event-model's own checks take longer than the recorder."""
    run = compose_run(metadata=metadata)
    yield "start", dict(run.start_doc)
    key = {"source": "SIM", "dtype": "number", "shape": []}
    bundle = run.compose_descriptor(name="primary", data_keys={"det": key, "motor": key})  # type: ignore[arg-type]
    yield "descriptor", dict(bundle.descriptor_doc)
    descriptor, stem, now = bundle.descriptor_doc["uid"], str(uuid.uuid4()), time.time()
    for number in range(1, events + 1):
        yield (
            "event",
            {
                "uid": f"{stem}-{number}",
                "descriptor": descriptor,
                "seq_num": number,
                "time": now,
                "data": {"det": 1.0 / number, "motor": float(number)},
                "timestamps": {"det": now, "motor": now},
                "filled": {},
            },
        )
    stop = {"uid": str(uuid.uuid4()), "run_start": run.start_doc["uid"], "exit_status": "success"}
    yield "stop", {**stop, "time": time.time(), "num_events": {"primary": events}}


# The process that gives the orders.


class SessionProcess:
    """A session in a process of its own, with the environment that a session on this stack has."""

    def __init__(self, way: str, info: StackInfo) -> None:
        environment = {**os.environ, **info.environment()}
        if way == INLINE:
            # Without a courier, it sends by itself.
            environment["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(info.state_directory / "inline-session")
        self.log = info.logs / f"session-{way}.log"
        command = [sys.executable, "-m", "benchmarks.recording", "--session", way, str(info.images)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._read()

    def do(self, **order: Any) -> dict[str, Any]:
        """Have the session carry out an order, and return its answer."""
        assert self._process.stdin
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the session."""
        self._process.communicate()  # at the end of its orders, it ends

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A session ended:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)


@dataclass
class Measured:
    """What one way of recording cost, with the stack in one state; seconds."""

    scans: list[float] = field(default_factory=list)
    documents: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    to_tiled: list[float] = field(default_factory=list)
    to_completed: list[float] = field(default_factory=list)
    failed: int = 0
    # By the key of the flow run.
    stops: dict[str, float] = field(default_factory=dict)


class Bench:
    """The stack and the sessions on it."""

    def __init__(self, info: StackInfo, settings: Settings, stack: contextlib.ExitStack) -> None:
        self.info = info
        self.directory = JournalDirectory(settings.journals_path)
        processes = LocalStack(settings).processes()
        self.courier, self.tiled = (psutil.Process(processes[name].pid) for name in ("courier", "tiled"))
        # Without the authorities of TLS, reading which takes longer than a request.
        self._http = stack.enter_context(httpx.Client(verify=False, timeout=60))
        self._key = {"Authorization": f"Apikey {info.tiled_api_key.get_secret_value()}"}
        self._sessions: dict[str, SessionProcess] = {}
        for way in WAYS:
            self._sessions[way] = SessionProcess(way, info)
            stack.callback(self._sessions[way].close)

    def do(self, way: str, **order: Any) -> dict[str, Any]:
        """Have a session carry out an order, and return its answer."""
        return self._sessions[way].do(**order)

    def until_in_tiled(self, stops: dict[str, float]) -> list[float]:
        """Wait until Tiled has all of these runs, and return how long after their stops that was."""
        seconds = []
        deadline = time.monotonic() + LONGEST_S
        for uid, stopped_at in stops.items():
            # A look at files leaves Tiled alone until it is told that the run is there.
            while self.directory.is_undelivered(uid) or not self._has_stop(uid):
                if time.monotonic() > deadline:
                    raise SystemExit(f"Run {uid} was not in Tiled after {LONGEST_S:.0f} s: see {self.info.logs}")
                time.sleep(0.005)
            seconds.append(time.time() - stopped_at)
        return seconds

    def until_completed(self, measured: Measured) -> None:
        """Wait until the flow runs of its stops have ended, and note when they had."""
        deadline = time.monotonic() + LONGEST_S
        while not (found := self._ended(list(measured.stops))):
            if time.monotonic() > deadline:
                raise SystemExit(f"The flow runs were not done after {LONGEST_S:.0f} s: see {self.info.logs}")
            time.sleep(LOOK_EVERY_S)
        for one in found:
            if one["state_type"] == "COMPLETED":
                end = datetime.fromisoformat(one["end_time"]).timestamp()
                measured.to_completed.append(end - measured.stops[one["idempotency_key"]])
            else:
                measured.failed += 1
                say(f"  {one['name']} is {one['state_name']}: {one['state']['message']}")
        measured.stops.clear()

    def keep_busy(self, finish: threading.Event) -> None:
        """Keep flow runs under way."""
        uid, _ = self.do(RECORDER, what="scan", number=POINTS)["stops"].popitem()
        deployment = self.info.ask_prefect(f"deployments/name/{DEPLOYMENT}")["id"]
        flow_run = {"parameters": {"ref": uid}, "state": {"type": "SCHEDULED"}}
        count = {"flow_runs": {"state": {"type": {"any_": UNDER_WAY}}, "parent_task_run_id": {"is_null_": True}}}

        def keep() -> None:
            while not finish.wait(LOOK_EVERY_S):
                with contextlib.suppress(StackError):  # a server on SQLite that is busy
                    for _ in range(FLOW_RUNS_UNDER_WAY - self.info.ask_prefect("flow_runs/count", body=count)):
                        self.info.ask_prefect(f"deployments/{deployment}/create_flow_run", body=flow_run)

        threading.Thread(target=keep, daemon=True).start()

    def memory(self, label: str) -> list[str]:
        """Return what the courier holds, as a row of the table."""
        with self.courier.oneshot():
            values = [self.courier.num_threads(), self.courier.num_fds()]
            row = [label, f"{self.courier.memory_info().rss / 1e6:.1f}", *map(str, values)]
        say(f"  the courier's memory {row[0]}: {row[1]} MB")
        return row

    def used(self) -> dict[str, float]:
        """Return the processor time that courier and Tiled have used, in seconds."""
        times = {"courier": self.courier.cpu_times(), "Tiled": self.tiled.cpu_times()}
        return {name: one.user + one.system for name, one in times.items()}

    def _has_stop(self, uid: str) -> bool:
        answer = self._http.get(f"{self.info.tiled_uri}/api/v1/metadata/raw/{uid}", headers=self._key)
        return answer.is_success and bool(answer.json()["data"]["attributes"]["metadata"].get("stop"))

    def _ended(self, keys: list[str]) -> list[dict[str, Any]] | None:
        body = {"flow_runs": {"idempotency_key": {"any_": keys}}}
        found = []
        with contextlib.suppress(StackError):
            found = self.info.ask_prefect("flow_runs/filter", body=body, timeout_s=60)
        return found if len(found) == len(keys) and all(one["state_type"] in ENDED for one in found) else None


def in_turn(times: int, ways: tuple[str, ...] = WAYS) -> Iterator[str]:
    """Yield each way as often, in an order that changes."""
    for _ in range(times):
        yield from random.sample(ways, len(ways))


def measure_scans(bench: Bench, scans: int, *, busy: bool) -> dict[str, Measured]:
    """Take scans a second apart: on an idle stack when the flow run of the last one has ended, else at once."""
    ways = (*WAYS, FLOOR)
    results = {way: Measured() for way in ways}
    finish = threading.Event()
    if busy:
        bench.keep_busy(finish)
    for way in in_turn(scans, ways):
        time.sleep(GAP_S)
        results[way].scans.append(scan_once(bench, way, results[way], process=True))
        if results[way].stops and not busy:
            bench.until_completed(results[way])
    finish.set()
    for measured in results.values():
        if measured.stops:
            bench.until_completed(measured)
    return results


def scan_once(bench: Bench, way: str, measured: Measured, *, process: bool) -> float:
    """Take a scan and wait until Tiled has it; return how long the scan took."""
    if way == FLOOR:
        start_s, stop_s = disk_seconds(bench.info.state_directory)
        measured.documents["start"].append(start_s)
        measured.documents["stop"].append(stop_s)
        measured.documents["event"] += computing_seconds()
        return start_s + stop_s
    answer = bench.do(way, what="scan", number=POINTS, process=process)
    measured.to_tiled += bench.until_in_tiled(answer["stops"])
    for kind, seconds in answer["documents"].items():
        measured.documents[kind] += seconds
    if process:
        measured.stops |= {submission_key(uid, DEPLOYMENT): at for uid, at in answer["stops"].items()}
    return answer["s"]


def measure_documents(bench: Bench, scans: int) -> dict[str, Measured]:
    """Take many scans that start nothing, for the slowest documents."""
    ways = (INLINE, RECORDER, FLOOR)
    results = {way: Measured() for way in ways}
    for way in in_turn(scans, ways):
        time.sleep(SHORT_GAP_S)
        scan_once(bench, way, results[way], process=False)
    return results


def measure_larger(bench: Bench, sizes: Sizes) -> dict[str, dict[str, Measured]]:
    """Take runs with many points, frames or events, and several at once."""
    orders = {
        f"{sizes.points:,} points": {"what": "scan", "number": sizes.points},
        f"{sizes.frames} frames of an image detector": {"what": "frames", "number": sizes.frames},
        f"{TOGETHER} runs interleaved, {sizes.together_points} points each": {
            "what": "together",
            "number": sizes.together_points,
        },
        f"{sizes.events:,} events at full speed": {"what": "events", "number": sizes.events},
    }
    results = {title: {way: Measured() for way in WAYS} for title in orders}
    for title, order in orders.items():
        say(f"  {title}")
        for way in in_turn(sizes.repeats):
            time.sleep(GAP_S)
            measured, answer = results[title][way], bench.do(way, **order)
            measured.scans.append(answer["s"])
            if way == BARE:
                continue
            # Of several at once, the last one counts.
            measured.to_tiled.append(max(bench.until_in_tiled(answer["stops"])))
            for kind, seconds in answer["documents"].items():
                measured.documents[kind] += seconds
            say(f"    {way}: {answer['s']:.2f} s, in Tiled {measured.to_tiled[-1]:.2f} s after the stop")
    return results


def measure_memory(bench: Bench, runs: int) -> list[list[str]]:
    """Have the courier take many small runs, and look at its memory now and then."""
    rows, began, used = [bench.memory("before")], time.monotonic(), bench.used()
    recorder = RunRecorder(bench.directory.path)
    marks = {round(runs * tenth / 10) for tenth in (1, 2, 3, 4, 6, 8, 10)}
    for number in range(1, runs + 1):
        for name, doc in small_run(3, plan_name="endurance"):
            recorder(name, doc)
        if number in marks or number % MAX_WAITING == 0:
            limit = 0 if number in marks else MAX_WAITING
            deadline = time.monotonic() + LONGEST_S
            while len(bench.directory.waiting()) > limit:
                if time.monotonic() > deadline:
                    raise SystemExit(f"The courier did not take {MAX_WAITING} runs in {LONGEST_S:.0f} s")
                time.sleep(0.02)
        if number in marks:
            speed = number / (time.monotonic() - began)
            each = ", ".join(f"{name} {(now - used[name]) / number:.2f}" for name, now in bench.used().items())
            rows.append([*bench.memory(f"after {number:,} runs"), f"{speed:.1f}", each])
    recorder.close()
    return rows


def computing_seconds() -> list[float]:
    """Return how long each of some loops takes that need about 0.1 ms, in seconds: more where they are interrupted."""
    seconds = []
    for _ in range(POINTS):
        began = time.perf_counter()
        sum(range(5_000))
        seconds.append(time.perf_counter() - began)
    return seconds


def disk_seconds(folder: Path) -> tuple[float, float]:
    """Return how long the disk needs for a new file with its name, and for an append, in seconds."""
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        file.write(b"x" * 2048)
        os.fdatasync(file.fileno())
        started = time.perf_counter()
        file.write(b"x" * 2048)
        os.fdatasync(file.fileno())
        return started - began, time.perf_counter() - started


# What is shown.


def milliseconds(values: list[float], *shares: float) -> str:
    """Return the median and further percentiles."""
    if not values:
        return "-"
    figures = [statistics.median(values), *(percentile(values, share) for share in shares)]
    return " / ".join(f"{1000 * value:.2f}" for value in figures)


def ratios(measured: Measured, bare: Measured) -> list[float]:
    """Return how long each scan took beside the bare one of the same turn."""
    return [own / other for own, other in zip(measured.scans, bare.scans, strict=True)]


def scan_table(console: Console, results: dict[str, dict[str, Measured]], scans: int) -> None:
    table = Table(
        "stack",
        "way",
        "scan, ms: median / p95",
        "to bare: of the medians",
        "of each turn: median (quartiles)",
        f"aim: at most {AIM_RATIO:g}",
        title=f"A scan of {POINTS} points, a second between scans; {scans} of each way, by turns",
    )
    for stack, by_way in results.items():
        bare = by_way[BARE]
        for way in WAYS:
            measured = by_way[way]
            ratio = statistics.median(measured.scans) / statistics.median(bare.scans)
            by_turn = ratios(measured, bare)
            low, middle, high = statistics.quantiles(by_turn, n=4) if len(by_turn) > 1 else by_turn * 3
            table.add_row(
                stack,
                way,
                milliseconds(measured.scans, 0.95),
                f"{ratio:.2f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                met(ratio <= AIM_RATIO) if way == RECORDER else "",
            )
    console.print(table)


def met(reached: bool) -> str:
    return "met" if reached else "missed"


def document_table(console: Console, results: dict[str, dict[str, Measured]]) -> None:
    table = Table(
        "scans",
        "way",
        *KINDS,
        CALLBACK,
        f"aim: p99 under {AIM_ANY_MS:g}, stop {AIM_STOP_MS:g}",
        "runs",
        title="Time in the callbacks for each document, ms: median / p99",
    )
    for when, by_way in results.items():
        for way in (INLINE, RECORDER, FLOOR):
            documents = by_way[way].documents
            cells = [milliseconds(documents[kind], 0.99) for kind in (*KINDS, CALLBACK)]
            missed = [
                kind
                for kind in KINDS
                if documents[kind]
                and 1000 * percentile(documents[kind], 0.99) >= (AIM_STOP_MS if kind == "stop" else AIM_ANY_MS)
            ]
            verdict = f"missed by {', '.join(missed)}" if missed else met(True)
            table.add_row(when, way, *cells, verdict if way == RECORDER else "", str(len(documents["start"])))
    console.print(table)


def arrival_table(console: Console, results: dict[str, dict[str, Measured]]) -> None:
    table = Table(
        "scans",
        "way",
        "stop to Tiled, ms: median / p95 / most",
        "stop to Completed, s: median / p95 / most",
        "flow runs",
        "not completed",
        "aim: Completed not later",
        title="From a run's stop document to its data in Tiled, and to its flow run's end",
    )
    for when, by_way in results.items():
        for way in (INLINE, RECORDER):
            measured, inline = by_way[way], by_way[INLINE]
            done, verdict = "-", ""
            if ends := measured.to_completed:
                figures = [statistics.median(ends), percentile(ends, 0.95), max(ends)]
                done = " / ".join(f"{value:.2f}" for value in figures)
                later = figures[0] - statistics.median(inline.to_completed or [float("nan")])
                verdict = f"{met(later <= 0)} ({later:+.2f} s)" if way == RECORDER else ""
            table.add_row(
                when,
                way,
                milliseconds(measured.to_tiled, 0.95, 1.0),
                done,
                str(len(ends)),
                str(measured.failed),
                verdict,
            )
    console.print(table)


def larger_table(console: Console, results: dict[str, dict[str, Measured]], sizes: Sizes) -> None:
    table = Table(
        "run",
        "bare, s",
        "inline, s (to bare)",
        "recorder, s (to bare)",
        "stop to Tiled, s: inline",
        "recorder",
        "recorder's event, ms: median / p99",
        title=f"Larger runs; medians of {sizes.repeats}, by turns",
    )
    for title, by_way in results.items():
        bare, *taken = (statistics.median(by_way[way].scans) for way in WAYS)
        table.add_row(
            title,
            f"{bare:.2f}",
            *(f"{seconds:.2f} ({seconds / bare:.2f})" for seconds in taken),
            *(f"{statistics.median(by_way[way].to_tiled):.2f}" for way in (INLINE, RECORDER)),
            milliseconds(by_way[RECORDER].documents["event"], 0.99),
        )
    console.print(table)
    full = results[f"{sizes.events:,} events at full speed"]
    each = {way: [sizes.events / seconds for seconds in full[way].scans] for way in (INLINE, RECORDER)}
    speeds = {way: statistics.median(values) for way, values in each.items()}
    console.print(
        f"Events a second at full speed: recorder {speeds[RECORDER]:,.0f} (from {min(each[RECORDER]):,.0f} to "
        f"{max(each[RECORDER]):,.0f}); inline {speeds[INLINE]:,.0f}; aim: {AIM_EVENTS:,}, "
        f"{met(speeds[RECORDER] >= AIM_EVENTS)}"
    )


def memory_table(console: Console, rows: list[list[str]]) -> None:
    table = Table(
        "when", "memory, MB", "threads", "descriptors", "runs a second", "processor time a run, s", title="The courier"
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def log_problems(bench: Bench) -> list[str]:
    """Return what the logs of courier and sessions hold of warnings and errors."""
    found = [f"{one.name}: {one.reason}" for one in bench.directory.refused()]
    for log in (bench.info.logs / "courier.log", *(bench.info.logs / f"session-{way}.log" for way in WAYS)):
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        found += [f"{log.name}: {line}" for line in lines if "WARNING" in line or "ERROR" in line or "Error" in line]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, help="scans of each way, on an idle and on a busy stack (20)")
    parser.add_argument("--endurance", type=int, help="small runs for the courier's memory (300)")
    parser.add_argument("--quick", action="store_true", help="less of everything: does it work at all")
    parser.add_argument("--only-memory", action="store_true", help="nothing but the courier's memory")
    parser.add_argument("--session", nargs=2, metavar=("WAY", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.session:
        be_session(arguments.session[0], Path(arguments.session[1]))
        return
    sizes = Sizes.of(arguments)
    refusing = "http://127.0.0.1:9"
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        settings = Settings(
            state_directory=Path(home) / "state",
            tiled_port=0,
            prefect_port=0,
            reconcile_every_s=86400,
            weather_archive_url=f"{refusing}/archive",
            weather_forecast_url=f"{refusing}/forecast",
            cat_fact_url=f"{refusing}/fact",
        )
        local = LocalStack(settings)
        stack.callback(local.down, say, flow_runs_timeout_s=0)
        bench = Bench(local.up(say), settings, stack)
        if arguments.only_memory:
            memory_table(Console(width=170), measure_memory(bench, sizes.endurance))
        else:
            measure(bench, sizes)


def measure(bench: Bench, sizes: Sizes) -> None:
    """Measure one thing after the other, and show each when it is known."""
    console = Console(width=170)
    say("Warming up")
    measure_scans(bench, 1, busy=False)
    memory = [bench.memory("after the warm-up")]
    say("Scans on an idle stack")
    idle = measure_scans(bench, sizes.scans, busy=False)
    say("Scans on a busy stack")
    busy = measure_scans(bench, sizes.scans, busy=True)
    scan_table(console, {"idle": idle, "busy": busy}, sizes.scans)
    say("Scans that start nothing")
    by_time = {"idle": idle, "busy": busy, f"no flow, {SHORT_GAP_S:g} s": measure_documents(bench, sizes.documents)}
    document_table(console, by_time)
    arrival_table(console, by_time)
    say("Small runs, for the courier's memory")
    memory += measure_memory(bench, sizes.endurance)
    say("Larger runs")
    larger_table(console, measure_larger(bench, sizes), sizes)
    memory_table(console, [*memory, bench.memory("after the larger runs")])
    for problem in log_problems(bench):
        console.print(problem, markup=False)
    say(f"Load of this machine now: {psutil.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
