"""An outbox of 10 to 1,000,000 submissions, all of which wait, or all but a hundred of which were sent."""

import itertools
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console

from benchmarks.backlog import fill
from benchmarks.callback import DEPLOYMENT, START
from benchmarks.growth.tables import growth_table, median_s
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.outbox import Outbox

SIZES = (10, 10_000, 1_000_000)
WAITING_AMONG_SENT = 100
REPEATS = 9
SHORT_REPEATS = 200
SENT = "UPDATE entries SET state = 'sent', flow_run_id = ?, flow_run_name = ? WHERE seq <= ?"
ON_DISK = "size on disk"


def fresh(number: int) -> Submission:
    """Return a submission as large as those of the backlog."""
    uid = f"fresh-{number}"
    stop = {"run_start": uid, "uid": f"{uid}-stop", "exit_status": "success", "num_events": {"primary": 101}}
    start = {**START, "uid": uid, "scan_id": number}
    return Submission(submission_key(uid, DEPLOYMENT), DEPLOYMENT, DEPLOYMENT, uid, start, stop)


def measured(path: Path, size: int) -> dict[str, float]:
    """Return what each look at an outbox takes, and each change, in seconds."""
    numbers = itertools.count()

    def take_and_send() -> None:
        entry = outbox.take()
        assert entry is not None
        outbox.mark_sent(entry.key, "id", "name")

    found = {}
    with closing(Outbox(path)) as outbox:
        for name, look in {
            "is there anything to send": outbox.has_waiting,
            "counts: status, check, prompt": outbox.counts,
            "counts by deployment: metrics": outbox.unsent_by_deployment,
            "counts by server, each minute": lambda: outbox.waiting_by_address(for_s=60.0),
            "the ten newest: flows": lambda: [outbox.entries(state=one, limit=10) for one in ("dead", "waiting")],
            "a run by its uid": lambda: outbox.named("old-7"),
            "a waiting run by its scan id": lambda: outbox.named("7", unsent=True),
            "what may be deleted: each hour": lambda: outbox.prune(30.0),
        }.items():
            found[name] = median_s(look, SHORT_REPEATS if size <= 10_000 else REPEATS)
        found["put, with its fsync"] = median_s(lambda: outbox.put(fresh(next(numbers))), SHORT_REPEATS)
        found["take and mark sent"] = median_s(take_and_send, SHORT_REPEATS)
    found[ON_DISK] = sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*"))
    return found


def measure(console: Console, sizes: list[int]) -> None:
    """Print a table of outboxes in which all wait, and one of those in which nearly all were sent."""
    for sent in (False, True):
        figures = []
        for size in sizes:
            with tempfile.TemporaryDirectory() as directory, console.status(f"{size:,} submissions ..."):
                path = Path(directory) / "outbox.sqlite"
                fill(path, size)
                if sent:
                    with closing(Outbox(path)) as outbox, outbox._relaxed.change("it cannot be filled") as connection:
                        connection.execute(
                            SENT, ("0" * 36, "my-workflow-scan-7", size - min(size // 2, WAITING_AMONG_SENT))
                        )
                time.sleep(1.0)
                figures.append(measured(path, size))
        title = f"Outbox; {'all but a few were sent, and are kept' if sent else 'all wait'}"
        console.print(growth_table(title, [f"{size:,}" for size in sizes], figures, ON_DISK))
