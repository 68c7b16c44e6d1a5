"""Runs that Tiled does not have, though this machine has their documents."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bluesky_prefect.core import Run, Settings
from bluesky_prefect.courier import running_courier
from bluesky_prefect.journal import JournalDamaged, JournalDirectory, JournalReader, run_uid_of
from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.reconciliation._report import Finding
from bluesky_prefect.reconciliation._time_window import TimeWindow


def undelivered_runs(window: TimeWindow, settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each run that nothing takes to Tiled by itself: refused, or on its way without a courier.

    However old; the window only says which plan and scan id. A run that goes on is none of them.
    """
    directory = JournalDirectory(settings.journals_path)
    found = [(one.path, one.since, f"Tiled refuses it: {one.reason}") for one in directory.refused()]
    if running_courier(settings) is None:
        reason = "it is in a journal, and no courier is running: start one with 'bluesky-prefect courier'"
        left = (one for one in directory.waiting() if not directory.is_written(one.path))
        found += [(one.path, one.written, reason) for one in left]
    for path, since, reason in found:
        finding = _finding(path, since, reason)
        if finding is not None and window.wants(finding):
            yield finding


def _finding(path: Path, since: float, reason: str) -> Finding | None:
    run = Run(run_uid_of(path), {})
    try:
        with closing(JournalReader(path)) as reader:
            name, doc = next(reader.documents(), ("", {}))
            if name == "start":
                run = Run(str(doc.get("uid")), doc)
    except FileNotFoundError:
        return None  # it has got there meanwhile
    except (OSError, JournalDamaged):
        pass  # its name says which run it is
    return Finding(run.uid, run.scan_id, run.plan_name, None, RunState.NOT_IN_TILED, since, reason)
