"""What many flow runs leave behind in a warm worker: descriptors, memory, threads, processes.

A real Prefect server (on PostgreSQL if this machine has one, else on SQLite), a real worker, a flow that does nothing.
"""

import argparse
import collections
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from tests.services.postgres import empty_database
from tests.services.prefect_process import PrefectProcess
from tests.services.worker_process import WorkerProcess

FLOW = "from prefect import flow\n\n@flow(log_prints=True)\nasync def nothing():\n    print('nothing')\n"
AHEAD = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--sqlite", action="store_true", help="Prefect on SQLite, whatever there is")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, empty_database() as database_url:
        server = PrefectProcess(Path(folder), database_url=None if arguments.sqlite else database_url)
        server.start()
        worker = WorkerProcess(server.url, Path(folder), "endurance")
        try:
            worker.make_pool()
            worker.start("--limit", "2")
            measure(worker, Path(folder), arguments.runs)
        finally:
            worker.close()
            server.kill()


def measure(worker: WorkerProcess, folder: Path, runs: int) -> None:
    (folder / "nothing.py").write_text(FLOW)
    deployment = worker.deploy("nothing.py:nothing", folder)
    fork_server = ("fork server", "threads", "descriptors", "memory, MB")
    table = Table("flow runs", *fork_server, "worker's descriptors", "memory, MB", "zombies")
    states: collections.Counter[str] = collections.Counter()
    to_running: list[float] = []
    to_completed: list[float] = []
    start = time.monotonic()
    waiting: collections.deque[str] = collections.deque()
    for number in range(1, runs + AHEAD + 1):
        if number <= runs:
            waiting.append(worker.submit(deployment))
        if len(waiting) < AHEAD and number <= runs:
            continue
        if waiting:
            ended = worker.wait(waiting.popleft(), timeout_s=300)
            states[ended["state_type"]] += 1
            created = datetime.fromisoformat(ended["created"])
            if ended["start_time"]:
                to_running.append((datetime.fromisoformat(ended["start_time"]) - created).total_seconds())
                to_completed.append((datetime.fromisoformat(ended["end_time"]) - created).total_seconds())
        done = sum(states.values())
        if done in (10, runs) or done % 100 == 0:
            table.add_row(str(done), *looked_at(worker))
            print(done, *looked_at(worker), f"{time.monotonic() - start:.0f} s", flush=True)
    Console().print(table)
    print(dict(states), f"{(time.monotonic() - start) / runs:.2f} s a flow run,", AHEAD, "submitted ahead")
    print(
        f"creation to RUNNING {statistics.median(to_running):.2f} s, to the end {statistics.median(to_completed):.2f} s"
    )


def looked_at(worker: WorkerProcess) -> list[str]:
    own, server = psutil.Process(worker.process.pid), psutil.Process(worker.fork_server)
    zombies = [one for one in own.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
    memory = [f"{one.memory_info().rss / 1e6:.0f}" for one in (server, own)]
    return [
        str(server.pid), str(server.num_threads()), str(server.num_fds()), memory[0], str(own.num_fds()), memory[1],
        str(len(zombies)),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
