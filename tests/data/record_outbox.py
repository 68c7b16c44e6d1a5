"""Record an outbox as this version writes it: ``python -m tests.data.record_outbox`` at the top of the repository.

One file per format, kept for good: a later version has to read what an earlier one has left behind. Run it before a
format is changed, never again afterwards.
"""

import dataclasses
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.outbox import Draft, Outbox
from bluesky_prefect.outbox._entry import FORMATS

OUTBOXES = Path(__file__).with_name("outboxes")
# What stands in them came about at this time, in seconds since the epoch.
RECORDED_AT_S = 1_790_000_000.0
_WORKFLOW = "my-workflow/local"


def main() -> None:
    socket.gethostname = lambda: "beamline-1"
    path = OUTBOXES / f"format-{len(FORMATS)}.sqlite"
    if path.exists():
        sys.exit(f"{path} is there: a recorded outbox is never recorded again.")
    path.parent.mkdir(exist_ok=True)
    _record(Outbox(path, clock=lambda: RECORDED_AT_S))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # one file
    connection.close()
    path.chmod(0o644)


def _record(outbox: Outbox) -> None:
    """Put in one submission of each kind; its run is called after what became of it."""
    taken = {"sent": "sent", "delayed": "later", "aside": "aside", "refused": "dead", "leased": ""}
    for uid, end in taken.items():
        outbox.put(_submission(uid, workflow=f"{uid}/local"))
        key = outbox.take().key
        if end == "sent":
            outbox.mark_sent(key, "00000000-0000-0000-0000-000000000001", "scan-1-count-sent")
        elif end == "dead":
            outbox.mark_dead(key, "Prefect refuses to start it (422): sample is missing")
        elif end:
            outbox.give_back(key, "Prefect answers 500", 30.0, aside=end == "aside")
    outbox.put(_submission("undecided", undecided=True), dead="when= of workflow 'my-workflow/local' failed: KeyError")
    outbox.put_all([Draft(_submission("unwanted"), "declined")])
    for submission in _waiting():
        outbox.put(submission)
    outbox.close()


def _waiting() -> Iterator[Submission]:
    yield _submission("waiting")
    again = _submission("again", parameters={"ref": "again"}, overrides={"binning": 4}, generation=2)
    yield dataclasses.replace(again, key=submission_key("again", _WORKFLOW, 2))
    yield _submission("told", notify=("failure:slack/mon-beamline",))


def _submission(uid: str, *, workflow: str = _WORKFLOW, **what) -> Submission:
    start = {"uid": uid, "scan_id": 1, "plan_name": "count", "sample": {"name": "Fe₂O₃"}, "array": [0, 1.5, None]}
    stop = {"run_start": uid, "exit_status": "success", "num_events": {"primary": 3}}
    return Submission(submission_key(uid, workflow), workflow, workflow, uid, start, stop, **what)


if __name__ == "__main__":
    main()
