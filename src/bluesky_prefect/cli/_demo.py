"""The main job on simulated devices: scans, the flow runs that they start, and the files these write."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.cli._comparison import Comparison, compare_run, run_folder
from bluesky_prefect.core import Run, Settings, StackError, counted, get_settings
from bluesky_prefect.prefect_api import FAILED_STATES, flow_run_url, is_final
from bluesky_prefect.stack import DEPLOYMENT, StackInfo
from bluesky_prefect.tiled_api import Catalog

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.utils import MsgGenerator
    from tiled.client.container import Container

    from bluesky_prefect.outbox import Outbox

Report = Callable[[str], None]

# So long may nothing at all change before the rest is given up.
PATIENCE_S = 180.0


@dataclass(frozen=True)
class DemoRow:
    """One run, and what became of it."""

    run: Run
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    state: str = "not started"
    message: str = ""
    running_after_s: float | None = None
    done_after_s: float | None = None
    url: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        """The run's name for people."""
        return f"Scan {self.run.scan_id} ({self.run.plan_name})"


@dataclass
class DemoResult:
    """All runs, and what is not as it should be (nothing, if all went well)."""

    rows: list[DemoRow]
    comparison: Comparison = field(default_factory=Comparison)
    problems: list[str] = field(default_factory=list)

    @property
    def compared(self) -> str:
        """The comparison in a sentence."""
        found = self.comparison
        return (
            f"Compared {found.values} values in {counted(found.files, 'CSV file')} with what Tiled holds: "
            f"{counted(len(found.differences), 'difference') if found.differences else 'no differences'}."
        )


class Demo:
    """Scans on simulated devices against a running stack: all plans, or the first `plans` of them.

    The process's environment has to point to that stack before Prefect is imported.
    """

    def __init__(self, info: StackInfo, settings: Settings, *, plans: int | None = None) -> None:
        self._info = info
        self._settings = settings
        self._plans = plans

    def run(self, report: Report) -> DemoResult:
        """Take the scans, wait for their flow runs, and check the files."""
        from bluesky_prefect import PrefectCallback

        with Catalog.connect(get_settings()) as catalog:  # the stack's, by the environment
            callback = PrefectCallback(DEPLOYMENT, settings=self._settings)
            try:
                result = DemoResult(self._scan(callback, report))
                result.rows = self._wait(result.rows, callback.outbox, report)
            finally:
                callback.close()
            self._check(result, catalog.raw_for_writing(), report)
        return result

    def _scan(self, callback: Callable[..., Any], report: Report) -> list[DemoRow]:
        from bluesky import RunEngine

        from bluesky_prefect.journal import RunRecorder
        from bluesky_prefect.session import TiledConnection, persistent_metadata
        from bluesky_prefect.sim import make_devices

        # Sessions on the same stack go on from these, so that a scan id is one scan's.
        scan_ids = persistent_metadata(self._settings, TiledConnection(get_settings()))
        metadata = {"user": "demo", "sample": {"name": "a very thin slice of nothing"}}
        engine = RunEngine(metadata, scan_id_source=scan_ids.next_scan_id)
        rows: dict[str, DemoRow] = {}

        def record(name: str, document: dict[str, Any]) -> None:
            if name == "start":
                rows[document["uid"]] = DemoRow(Run(document["uid"], document))
            elif name == "stop":
                run = replace(rows[document["run_start"]].run, stop=document)
                rows[run.uid] = row = DemoRow(run)
                report(f"{row.label}: taken, exit status {run.exit_status}")

        engine.subscribe(record)
        engine.subscribe(RunRecorder(self._settings.journals_path))
        engine.subscribe(callback)
        for plan in islice(_plans(make_devices(self._info.images)), self._plans):
            _execute(engine, plan)
        return list(rows.values())

    def _wait(self, rows: list[DemoRow], outbox: "Outbox", report: Report) -> list[DemoRow]:
        report(f"Waiting for {counted(len(rows), 'flow run')}")
        began = changed = time.monotonic()
        waiting, done = {row.run.uid: row for row in rows}, {}
        while waiting and time.monotonic() - changed < PATIENCE_S:
            for uid, old in list(waiting.items()):
                row = waiting[uid] = self._look_at(old, outbox)
                if row != old:
                    changed = time.monotonic()
                if row.done_after_s is not None:
                    done[uid] = waiting.pop(uid)
                    report(
                        f"{row.label}: flow run {row.flow_run_name} is {row.state} after {row.done_after_s:.1f} s "
                        f"({len(done)} of {len(rows)}, {time.monotonic() - began:.0f} s)"
                    )
            time.sleep(0.5)
        found = {**done, **waiting}
        return [found[row.run.uid] for row in rows]

    def _look_at(self, row: DemoRow, outbox: "Outbox") -> DemoRow:
        if row.flow_run_id is None:
            [*_, entry] = [None, *(one for one in outbox.entries(run_uid=row.run.uid) if not one.is_message)]
            if entry is None:
                return replace(row, state="not in the outbox", message="")
            if entry.flow_run_id is None:
                return replace(row, state=entry.state, message=entry.reason or "")
            row = replace(row, flow_run_id=entry.flow_run_id, message="")
        try:
            found = self._info.ask_prefect(f"flow_runs/{row.flow_run_id}")
        except StackError as error:
            return replace(row, message=str(error))
        return replace(
            row,
            flow_run_name=found["name"],
            state=found["state_name"],
            message=(found["state"] or {}).get("message") or "",
            running_after_s=_after(row, found["start_time"]),
            done_after_s=_after(row, found["end_time"]) if is_final(found["state_type"]) else None,
            url=flow_run_url(self._info.prefect_ui_url, found["id"], failed=found["state_type"] in FAILED_STATES),
        )

    def _check(self, result: DemoResult, raw: "Container", report: Report) -> None:
        report("Comparing the exported files with Tiled")
        for index, row in enumerate(result.rows):
            if row.state != "Completed":
                result.problems.append(f"{row.label}: its flow run is {row.state}. {row.message}".strip())
                continue
            folder = run_folder(self._info.exports, row.run.uid)
            if folder is None:
                result.problems.append(f"{row.label}: no files of it in {self._info.exports}")
                continue
            files = tuple(sorted(file for file in folder.iterdir() if not file.name.startswith(".")))
            result.rows[index] = replace(row, files=files)
            before = len(result.comparison.differences)
            compare_run(raw[row.run.uid], folder, result.comparison)
            result.problems += [f"{row.label}: {one}" for one in result.comparison.differences[before:]]
            for kind in (".txt", ".csv", ".png"):
                if not any(file.suffix == kind for file in files):
                    result.problems.append(f"{row.label}: no {kind} file in {folder}")


def _plans(devices: Any) -> "Iterator[MsgGenerator[Any]]":
    from bluesky.plans import count, grid_scan, list_scan, scan

    from bluesky_prefect.sim import failing_scan, find_peak, two_runs_interleaved

    d = devices
    yield count([d.det], 5)
    yield scan([d.det, d.noisy_det], d.motor, -3, 3, 13)
    yield grid_scan([d.det1, d.det2], d.motor1, -1, 1, 4, d.motor2, -1, 2, 4)
    # The plan's annotation asks for pairs; it takes, and documents, motor and positions in turn.
    yield list_scan([d.noisy_det], d.motor, [-2, -0.5, -0.1, 0, 0.1, 0.5, 2])  # type: ignore[reportArgumentType]
    yield find_peak(d.det1, d.motor1, -1, 1)
    yield scan([d.image_det], d.motor1, -2, 2, 5)
    yield two_runs_interleaved(d.det1, d.det2)
    yield failing_scan([d.det])


def _execute(engine: "RunEngine", plan: "MsgGenerator[Any]") -> None:
    with _quiet("bluesky"):
        try:
            engine(plan)
        except RuntimeError as error:
            # The last of the plans; a run that failed is exported like any other.
            if "on purpose" not in str(error):
                raise


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a failing plan's traceback from the terminal: what matters of it is reported."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _after(row: DemoRow, moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp() - row.run.time_s
