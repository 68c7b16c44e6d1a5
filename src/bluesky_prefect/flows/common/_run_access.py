"""Runs as flows read them, and the results that flows write beside them."""

import asyncio
import contextvars
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bluesky_prefect import tiled_api
from bluesky_prefect.core import RunIncomplete, Settings, get_settings
from bluesky_prefect.flows.common._made_by import made_by
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import stopped_runs
from bluesky_prefect.tiled_api import Catalog, RunData, checked_ref

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from numpy.typing import ArrayLike

    Result = ArrayLike | pandas.DataFrame | pyarrow.Table | Mapping[str, Sequence[Any]] | Path

R = TypeVar("R")
_POLL_S = 0.05


def read_run(ref: int | str) -> RunData:
    """Wait until a run has stopped, and read it from Tiled.

    The wait takes as long as the setting ``stop_timeout_s`` says, at most. An asynchronous flow calls it in a thread:
    ``await asyncio.to_thread(read_run, ref)``.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.

    Returns
    -------
    RunData
        The documents ``start`` and ``stop``; ``table()`` is a stream as a pandas table, ``array(key)`` an array that
        is read when it is used.

    Raises
    ------
    FlowInputError
        If `ref` cannot name a run.
    RunNotFound, RunIncomplete
        If Tiled has no such run, or not its end.
    TiledUnavailable, ConfigurationError
        If Tiled cannot be asked.
    """
    return _outcome(finished_run(ref))


def require_run(ref: int | str) -> None:
    """Refuse a run that Tiled does not have, whether it has stopped or not.

    Raises
    ------
    FlowInputError, RunNotFound, RunIncomplete, TiledUnavailable, ConfigurationError
        As `read_run`, which also waits for a run that may still come.
    """
    _outcome(_look_for(ref))


def write_result(run: RunData, name: str, value: "Result", /, **metadata: Any) -> str:
    """Write a result to Tiled, beside the run that it was made from.

    An earlier result of this name for this run is replaced, so a flow can run again. The metadata say which run it is
    from (``raw_uid``, ``scan_id``, ``plan_name``), and which flow run made it with which parameters (``made_by``);
    ``quantity`` is the name unless it is given. Who may see the run may see the result: it gets the access tags of the
    run.

    Parameters
    ----------
    run : RunData
        The run, from `read_run`.
    name : str
        Name of the result: letters, digits, ``-``, ``_`` and ``.``.
    value : array, table, or Path
        An array of numbers; a table (`pandas.DataFrame`, `pyarrow.Table`, or a dictionary of columns); or the path of
        a file, whose content becomes an array of bytes, with its name as ``file`` in the metadata.
    **metadata
        What else is to be known of it, as JSON holds it.

    Returns
    -------
    str
        Its path in Tiled.

    Raises
    ------
    FlowInputError
        If the name or the value cannot be used.
    TiledUnavailable, ConfigurationError
        If Tiled cannot be asked, or refuses.
    """
    with Catalog.connect(get_settings()) as catalog:
        return tiled_api.write_result(catalog, run, name, value, metadata, made_by())


async def finished_run(ref: int | str) -> RunData:
    """Wait until a run has stopped, and read it from Tiled; see `read_run`."""
    checked_ref(ref)
    settings = get_settings()
    await _last_run_delivered(ref, settings)
    with await asyncio.to_thread(Catalog.connect, settings) as catalog:
        return await catalog.read_run(ref, timeout_s=settings.stop_timeout_s)


async def _look_for(ref: int | str) -> None:
    settings = get_settings()
    await _last_run_delivered(ref, settings)
    with await asyncio.to_thread(Catalog.connect, settings) as catalog:
        await asyncio.to_thread(catalog.find, ref)


def _outcome(work: Coroutine[Any, Any, R]) -> R:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    # This thread's loop cannot run it while it waits for it.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, _run, work).result()


def _run(work: Coroutine[Any, Any, R]) -> R:
    # Not asyncio.run, which leaves the thread without the event loop that it had.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


async def _last_run_delivered(ref: int | str, settings: Settings) -> None:
    """Wait until Tiled has the run that stopped last in this process, if it may be meant: else -1 is the one before."""
    last, text = stopped_runs.last(), str(ref).strip()
    if last is None or not (text.startswith("-") or last.uid.startswith(text) or last.name.startswith(f"scan-{text}-")):
        return
    journals, deadline = JournalDirectory(settings.journals_path), time.monotonic() + settings.stop_timeout_s
    while journals.is_waiting(last.uid):
        if time.monotonic() >= deadline:
            raise RunIncomplete(
                f"Run {last.uid[:8]}, the last one of this session, is not in Tiled after "
                f"{settings.stop_timeout_s:g} s. See: bluesky-prefect journal list"
            )
        await asyncio.sleep(_POLL_S)
