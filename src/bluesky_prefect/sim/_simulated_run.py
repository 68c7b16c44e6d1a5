"""A run without a beamline, for tests of flows."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bluesky_prefect.tiled_api import RunData, temporary_catalog

_TIMEOUT_S = 10.0


@contextmanager
def simulated_run(plan: Any, folder: Path, **metadata: Any) -> Iterator[RunData]:
    """Do a plan of one run, and have its data as `bluesky_prefect.flows.read_run` gives them to a flow.

    The run goes through a RunEngine to a Tiled server of this process, which ends with the block; no other is asked.

    Parameters
    ----------
    plan : generator
        A plan of one run, such as ``scan([devices.det], devices.motor, -2, 2, 11)``; see `make_devices`.
    folder : Path
        Where the server keeps its files, and devices write theirs: pytest's ``tmp_path``.
    **metadata
        More of the run's start document.
    """
    from bluesky import RunEngine
    from bluesky_tiled_plugins import TiledWriter

    with temporary_catalog(folder) as catalog:
        engine = RunEngine(context_managers=[])
        engine.subscribe(TiledWriter(catalog.raw_for_writing()))
        [uid] = _uids(engine(plan, **metadata))
        run = asyncio.run(catalog.read_run(uid, timeout_s=_TIMEOUT_S))
        run.read_over(catalog)
        yield run


def _uids(result: Any) -> tuple[str, ...]:
    """Return the uids of what a RunEngine has done, whichever way it is set to give them."""
    return tuple(getattr(result, "run_start_uids", result))
