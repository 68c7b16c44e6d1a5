"""How soon the flow run of the run just taken is Running while others wait: with the two work queues, and without.

A real Prefect server on SQLite, and a real worker of type ``warm-process`` with room for two flow runs. What waits are
flow runs of a flow that prints a line. The time is from the moment when a submission is put in the outbox, which a stop
document does within about a millisecond, to the flow run's start by Prefect.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path

import anyio
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from tests.services.prefect_process import PrefectProcess, wait_until
from tests.services.worker_process import WorkerProcess
from tests.system.worker.conftest import FLOWS

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Submission
from bluesky_prefect.courier import Forwarder
from bluesky_prefect.prefect_api import PrefectApi, prepare_queues

LIMIT = 2
LONGEST_S = 3600.0


@contextmanager
def at_work(server: PrefectProcess, folder: Path, backlog: int, pool: str, queues: bool) -> Iterator[tuple]:
    """Have a worker at work on a backlog; give it, and the name of the deployment."""
    with closing(WorkerProcess(server.url, folder, pool)) as worker:
        worker.make_pool()
        if queues:
            anyio.run(prepare_queues, pool)
        made = worker.ask("GET", f"/deployments/{worker.deploy(f'{FLOWS.name}:lines', FLOWS.parent)}")
        deployment = f"lines/{made['name']}"
        with PrefectApi(60, client_retries=True) as api:
            for number in range(backlog):
                api.create_flow_run(submission(deployment, f"{pool}-{number}"))
        worker.start("--limit", str(LIMIT))
        yield worker, deployment


def submission(deployment: str, uid: str) -> Submission:
    return Submission(uid, deployment, deployment, uid, parameters={"count": 1})


def measured(worker: WorkerProcess, deployment: str, directory: Path, runs: int) -> list[float]:
    """Return how long the flow runs of so many runs took to be Running, in seconds, one after the other."""
    took = []
    with closing(Outbox(directory / "outbox.sqlite")) as outbox, PrefectApi(60, client_retries=True) as api:
        forwarder = Forwarder([outbox], Settings(state_directory=directory), connect=lambda: nullcontext(api))
        for number in range(runs):
            stopped = time.time()
            outbox.put(submission(deployment, f"{worker.pool}-fresh-{number}"))
            while outbox.counts().waiting:
                time.sleep(forwarder.step())
            entry = outbox.entries(run_uid=f"{worker.pool}-fresh-{number}")[0]
            started = wait_until(partial(_start, worker, entry.flow_run_id), LONGEST_S)
            took.append(datetime.fromisoformat(started).timestamp() - stopped)
    return took


def _start(worker: WorkerProcess, flow_run_id: str) -> str | None:
    return worker.flow_run(flow_run_id)["start_time"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, nargs="*", default=[0, 200], help="flow runs that wait")
    parser.add_argument("--runs", type=int, default=5, help="runs taken meanwhile, one after the other")
    arguments = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        server = PrefectProcess(folder)
        server.start()
        try:
            with temporary_settings({PREFECT_API_URL: server.url}):
                for backlog in arguments.backlog:
                    for queues in (True, False):
                        pool = f"{'two' if queues else 'one'}-{backlog}"
                        # Behind a backlog on one queue the first alone has it all before it.
                        runs = 1 if backlog and not queues else arguments.runs
                        with (
                            console.status(f"{backlog} wait, {'two queues' if queues else 'one queue'} ..."),
                            at_work(server, folder, backlog, pool, queues) as (worker, deployment),
                        ):
                            took = measured(worker, deployment, folder / pool, runs)
                        how = "live and backlog" if queues else "one queue"
                        middle, longest = statistics.median(took), max(took)
                        console.print(
                            f"{backlog:,} flow runs wait, {how}: stop to Running {middle:.2f} s "
                            f"(median of {runs}; longest {longest:.2f} s)"
                        )
        finally:
            server.kill()


if __name__ == "__main__":
    main()
