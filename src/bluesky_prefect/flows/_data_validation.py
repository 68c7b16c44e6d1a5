"""Validation of a run's data against its documents."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from bluesky_prefect.core import Settings, counted, error_line, get_settings, markdown_literal, one_line
from bluesky_prefect.flows.common._artifacts import publish_table
from bluesky_prefect.flows.common._plain_flow import plain_flow
from bluesky_prefect.flows.validation._checks import Check, missing_streams, stream_checks
from bluesky_prefect.flows.validation._external_data import array_checks
from bluesky_prefect.tiled_api import (
    SERVER_TROUBLE,
    Catalog,
    RunData,
    Stream,
    array_columns,
    checked_ref,
    read_stream,
    readable_storage,
    run_without_streams,
    stream_nodes,
    tiled_errors,
)

if TYPE_CHECKING:
    from tiled.client.container import Container


@plain_flow(name="data-validation", log_prints=True)
async def data_validation(ref: int | str, fix: bool = False) -> State[Any]:
    """Read all of a run's data back, and compare them with its documents and with the files of detectors.

    Fails only if the data are broken, and its message says what is. A detector's file that Tiled may not read is a
    warning, with what to do. Reconciliation starts it again some times, as it does all that failed, in case a file was
    late; then it alarms, until somebody has looked.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.
    fix : bool
        Have Tiled take over from detectors' files what it has wrong of them: element type and shape.

    Raises
    ------
    RunNotFound, RunIncomplete
        If Tiled has no such run, or not its end.
    """
    checked_ref(ref)
    settings = get_settings()
    with await asyncio.to_thread(Catalog.connect, settings) as catalog:
        node = await catalog.finished_run(ref, timeout_s=settings.stop_timeout_s)
        with tiled_errors(catalog.name):
            run, checks = await asyncio.to_thread(_checked, node, settings, fix)
    logger = get_run_logger()
    for check in checks:
        if check.result != "passed":
            logger.warning("Run %s: %s: %s", one_line(run.uid), check.result, one_line(check.told))
    rows = [{"stream": one.stream, "check": one.what, "result": one.result, "detail": one.detail} for one in checks]
    about = markdown_literal(f"{run.label}, run {run.uid}")
    await publish_table(rows, "data-validation", about)
    return _state(run, checks)


def _checked(node: "Container", settings: Settings, fix: bool) -> tuple[RunData, list[Check]]:
    import httpx
    import pyarrow

    run, checks = run_without_streams(node), []
    storage, columns = readable_storage(settings), array_columns(settings)
    late_until = time.monotonic() + settings.files_timeout_s
    streams: list[tuple[Stream, Container]] = []
    for child in stream_nodes(node):
        name = child.item["id"]
        try:
            streams.append((read_stream(child, columns), child))
        except httpx.HTTPStatusError as error:
            if error.response.status_code in SERVER_TROUBLE:
                raise
            checks.append(Check(name, "reading", "broken", f"Tiled cannot read it ({error.response.status_code})"))
        except (pyarrow.ArrowException, ValueError, KeyError) as error:
            checks.append(Check(name, "reading", "broken", error_line(error)))
    run.streams = [stream for stream, _ in streams]
    broken = {check.stream for check in checks}
    checks += [check for check in missing_streams(run) if check.stream not in broken]
    for stream, child in streams:
        checks.append(Check(stream.name, "reading", detail=counted(stream.rows, "row")))
        checks += stream_checks(run, stream)
        for array in stream.arrays:
            node = child[array.key]
            checks += array_checks(stream.name, array, node, storage, late_until=late_until, fix=fix)
    return run, checks


def _state(run: RunData, checks: list[Check]) -> State[Any]:
    broken = [check.told for check in checks if check.result == "broken"]
    warnings = [check.told for check in checks if check.result == "warning"]
    about = f"scan {run.start.get('scan_id', '?')} {run.start.get('plan_name', '?')}"
    looked = f"{counted(len(run.streams), 'stream')}, {counted(len(checks), 'check')}"
    if broken:
        return Failed(message=one_line(f"{about}: broken data: {_first(broken)}", 1000))
    if warnings:
        looked += f", {counted(len(warnings), 'warning')}: {_first(warnings)}"
    return Completed(message=one_line(f"{about}: {looked}", 1000))


def _first(told: list[str]) -> str:
    return told[0] if len(told) == 1 else f"{told[0]} (and {len(told) - 1} more)"
