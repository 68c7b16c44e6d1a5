"""A session at a beamline: a RunEngine whose runs go to Tiled and start workflows."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import BlueskyPrefectError, Settings, is_anothers, share_directory, shared_with
from bluesky_prefect.journal import RunRecorder
from bluesky_prefect.session._courier import CourierKeeper, wait_until_delivered
from bluesky_prefect.session._metadata import PersistentMetadata
from bluesky_prefect.session._shortcomings import (
    SCAN_IDS_BEGIN,
    drop_unusable_settings,
    has_usable_directory,
    subscribed_callback,
)
from bluesky_prefect.session._tiled import LazyClient, TiledConnection
from bluesky_prefect.stack import Service, describe, prefect_service, start_or_check, use_services

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.callbacks.best_effort import BestEffortCallback
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

    from bluesky_prefect.callback import PrefectCallback


@dataclass(frozen=True)
class Session:
    """The objects that a startup file puts at the prompt.

    Parameters
    ----------
    run_engine : bluesky.RunEngine
        The RunEngine; its metadata go on after a restart, and its scan ids after the newest run's in Tiled.
    best_effort : bluesky.callbacks.best_effort.BestEffortCallback
        Live tables, and plots in a session with a Qt event loop.
    prefect_callback : PrefectCallback
        Starts the workflows.
    tiled_client : LazyClient
        Client of Tiled's root.
    raw : LazyClient
        Client of the catalog of runs: ``raw[-1]`` is the run just taken, which it waits for.
    """

    run_engine: "RunEngine"
    best_effort: "BestEffortCallback"
    prefect_callback: "PrefectCallback"
    tiled_client: LazyClient
    raw: LazyClient


def start_session(workflows: Any = None, tell: Callable[[str], None] = print) -> Session:
    """Make a RunEngine whose runs go to Tiled and then start `workflows`.

    Runs are recorded on disk. A courier, another process, takes them to Tiled, and what they start to Prefect: those
    that the environment names, else those of the running local stack. Where no courier is at work, this starts one.
    If Tiled or Prefect is not there the session starts all the same, a second later at most, and scans run. So it does
    with settings or a list of workflows that cannot be used: one line says what is wrong, and without a list runs are
    recorded and start nothing.

    Parameters
    ----------
    workflows : str, Workflow, or list of those, optional
        What `PrefectCallback` takes; by default the list that the setting ``workflows`` names, if it names one.
    tell : callable
        Is told in one line what is there and what is not.
    """
    _log_as_prefect_does()
    without_list = drop_unusable_settings(tell)
    settings = use_services(make_keys=True)
    if without_list is not None:
        workflows = without_list if workflows is None else workflows
        settings = settings.model_copy(update={"workflows": None})
    share_directory(settings.state_directory, settings.journals_path)
    tiled = TiledConnection(settings)
    tiled_service, prefect = _tiled_service(tiled, tell), prefect_service()
    tell(describe([tiled_service, prefect]))
    usable = has_usable_directory(settings, tell)
    if is_anothers(settings.state_directory) and (others := shared_with(settings.state_directory)):
        tell(f"{settings.state_directory} is shared with {others}: they can read and change what this session keeps.")

    from bluesky import RunEngine

    best_effort = _best_effort_callback()
    prefect_callback = subscribed_callback(workflows, settings, tell)
    metadata = persistent_metadata(settings, None if tiled_service.problem else tiled, tell)
    run_engine = RunEngine(metadata, scan_id_source=metadata.next_scan_id)  # type: ignore[arg-type]  # any mapping
    run_engine.subscribe(best_effort)
    run_engine.subscribe(RunRecorder(settings.journals_path))
    run_engine.subscribe(prefect_callback)
    if usable:
        CourierKeeper(settings, tell).start()
    _extend_prompt()

    def delivered_raw() -> "CatalogOfBlueskyRuns":
        wait_until_delivered(settings, tell)
        return tiled.raw()

    return Session(
        run_engine,
        best_effort,
        prefect_callback,
        LazyClient(tiled.root, tiled.require),
        LazyClient(delivered_raw, tiled.require),
    )


def persistent_metadata(
    settings: Settings, tiled: TiledConnection | None, tell: Callable[[str], None] = print
) -> PersistentMetadata:
    """Return the metadata kept in the state directory; a new directory's scan ids go on from the newest in Tiled.

    `tiled` is None where it does not answer. If a server is named, `tell` is told then that scan ids begin at 1.
    """
    metadata = PersistentMetadata(settings.metadata_path)
    if "scan_id" in metadata:
        return metadata
    newest = tiled.newest_scan_id() if tiled is not None else None
    if newest is not None:
        metadata.skip_scan_ids(newest)
    elif settings.tiled_uri is not None or settings.tiled_profile is not None:
        tell(SCAN_IDS_BEGIN)
    return metadata


def _log_as_prefect_does() -> None:
    """Give log lines a time and a level before Prefect is imported, which sets logging up, unless somebody has."""
    if logging.lastResort is not None:
        form = "%(asctime)s.%(msecs)03d | %(levelname)-7s | %(name)s - %(message)s"
        logging.lastResort.setFormatter(logging.Formatter(form, "%H:%M:%S"))


def _tiled_service(tiled: TiledConnection, tell: Callable[[str], None]) -> Service:
    try:
        problem, remedy = tiled.problem(), start_or_check(tiled.url, "BLUESKY_PREFECT_TILED_URI")
    except BlueskyPrefectError as error:  # an unknown profile: the message has the remedy
        return Service("Tiled", "", str(error), consequence="runs wait on disk", remedy="")
    if not problem:
        # Said now, though the courier is the first to be refused: a wrong key, a catalog that is not there.
        try:
            if lacking := tiled.catalog_problem():
                tell(lacking)
        except BlueskyPrefectError as error:
            problem, remedy = str(error), ""
    return Service("Tiled", tiled.url, problem, consequence="runs wait on disk", remedy=remedy)


def _extend_prompt() -> None:
    """Give the prompt ``%flows`` and what goes with it, if there is a prompt; a queue server has none."""
    from IPython import get_ipython

    if (shell := get_ipython()) is not None:
        shell.extension_manager.load_extension("bluesky_prefect")  # type: ignore[union-attr]  # made with the shell


def _best_effort_callback() -> "BestEffortCallback":
    import matplotlib
    from bluesky.callbacks.best_effort import BestEffortCallback

    best_effort = BestEffortCallback()
    # It draws in the RunEngine's thread, which of all windows only Qt's can bear.
    if "qt" not in matplotlib.get_backend().lower():
        best_effort.disable_plots()
    return best_effort
