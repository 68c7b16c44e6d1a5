"""Runs that are in files on this machine, because Tiled was away."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bluesky_prefect.core import ConfigurationError, Run, Settings, TiledUnavailable
from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.reconciliation._report import Finding
from bluesky_prefect.reconciliation._time_window import TimeWindow
from bluesky_prefect.tiled_api import Catalog, in_use, read_documents, send_run, tiled_errors, unsaved_files


def reconcile_kept(
    catalog: Catalog, window: TimeWindow, settings: Settings, now: float, *, submit: bool
) -> Iterator[Finding]:
    """Yield a finding for each run that is in a file and not in Tiled; write it there, if asked to.

    However old, what is in a file counts, unless a session is at work on it; the window only says which plan and scan
    id. `now` is in seconds since the epoch.

    Raises
    ------
    TiledUnavailable
        If Tiled cannot be asked. What is wrong with one file is its finding, and ends nothing.
    """
    raw = cache(catalog.raw_for_writing)
    for path in unsaved_files(settings.unsaved_runs_path):
        finding = _look(path, settings, now)
        if finding is not None and window.wants(finding):
            sends = submit and finding.state is RunState.NOT_IN_TILED
            yield _send(path, finding, raw(), catalog) if sends else finding


def _look(path: Path, settings: Settings, now: float) -> Finding | None:
    try:
        if in_use(path):
            return None
        touched = path.stat().st_mtime
        first, last = _ends(path)
    except FileNotFoundError:
        return None  # it has got there meanwhile
    except (ConfigurationError, OSError) as error:
        return _unreadable(path, now, str(error))
    lost = now - touched >= settings.open_after_s
    if first[0] != "start":
        return _unreadable(path, touched, f"{path} holds no start document") if lost else None
    run = Run(str(first[1].get("uid")), first[1])
    finding = Finding(
        run.uid, run.scan_id, run.plan_name, None, RunState.NOT_IN_TILED, touched, f"its documents are in {path}"
    )
    if last[0] == "stop":
        return finding
    if not lost:
        return None
    reason = f"its documents, without a stop document, are in {path}: its session was killed"
    return replace(finding, state=RunState.NO_STOP, reason=reason)


def _unreadable(path: Path, since: float, reason: str) -> Finding:
    return Finding(path.stem, None, None, None, RunState.UNREADABLE, since, reason)


def _ends(path: Path) -> tuple[tuple[str, Any], tuple[str, Any]]:
    documents = read_documents(path)
    first = next(documents, ("", None))
    [last] = deque(documents, maxlen=1) or [first]
    return first, last


def _is_failure(error: BaseException | None) -> bool:
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error


def _send(path: Path, finding: Finding, raw: Any, catalog: Catalog) -> Finding:
    try:
        with tiled_errors(catalog.name):
            send_run(path, raw)
    except TiledUnavailable as error:
        if not _is_failure(error.__cause__):
            raise
        _ = catalog.raw  # asks Tiled, and raises if it fails on everything
        remedy = (
            f"If it does so again and again, save what you need of {path}, then move the file out of that directory."
        )
        return replace(finding, action=f"{error} It fails on this run only. {remedy}")
    except (ConfigurationError, OSError) as error:  # this file's; the others are sent all the same
        return replace(finding, action=str(error))
    return replace(finding, action="written to Tiled", solved=True)
