"""The courier as a process: journals to Tiled, submissions to Prefect."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from bluesky_prefect.core import ConfigurationError, Settings, Workflow, api_address, counted, load_workflows
from bluesky_prefect.courier._courier import JournalCourier
from bluesky_prefect.courier._courier_lock import is_theirs, only_courier
from bluesky_prefect.courier._forwarder import Forwarder
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.metrics import Signals, serve_metrics
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.tiled_api import server_name

logger = logging.getLogger(__name__)

# What sessions without a recorder put in the outbox is found by this.
_POLL_S = 0.2
_CLOSE_TIMEOUT_S = 5.0
# Of a state directory that was deleted no courier is left behind; in the place of one that was moved there may be
# another one, with a courier of its own.
_LOOK_EVERY_S = 5.0


def _workflows(settings: Settings) -> Sequence[Workflow]:
    """Return the beamline's list of workflows, if this process knows it: for what has to be there before their runs."""
    try:
        return load_workflows(settings.workflows) if settings.workflows else ()
    except ConfigurationError as error:
        logger.warning("Deployments and messages are looked at when they are needed. %s", error)
        return ()


def run_courier(settings: Settings, connect: Callable[[], Any], finish: threading.Event) -> None:
    """Take what waits in the state directory to Tiled and Prefect until `finish` is set; nothing is lost then.

    Parameters
    ----------
    connect : callable
        Returns the catalog of runs in Tiled, as ``TiledWriter`` wants it; may raise anything.

    Raises
    ------
    CourierRuns
        If the state directory has a courier.
    """
    with only_courier(settings, prefect=api_address(), tiled=server_name(settings)) as lock:
        outbox = Outbox(settings.outbox_path, lease_s=settings.lease_s)
        workflows = _workflows(settings)
        deployments = [workflow.deployment for workflow in workflows]
        signals = Signals()
        forwarder = Forwarder(
            [outbox],
            settings,
            deployments=deployments,
            notices=[notice for one in workflows for notice in (*one.notices, *one.run_notices)],
            poll_s=_POLL_S,
            signals=signals,
        )
        journals = JournalCourier(settings, connect, delivered=forwarder.wake, signals=signals)
        directory = JournalDirectory(settings.journals_path)
        waiting = counted(len(directory.waiting()), "run")
        logger.info("The courier of %s is at work; %s for Tiled", settings.state_directory, waiting)
        forwarder.start()
        journals.start()
        with serve_metrics(
            settings,
            signals,
            [outbox],
            process="courier",
            journals=directory,
            deployments=deployments,
            ask_tiled=journals.ask_tiled,
        ):
            while not finish.wait(_LOOK_EVERY_S):
                if is_theirs(lock, settings):
                    logger.warning("%s is gone, and this courier with it", settings.state_directory)
                    break
        journals.close(_CLOSE_TIMEOUT_S)
        forwarder.close(_CLOSE_TIMEOUT_S)
        logger.info("The courier ends; what waits is on disk, for the next one")
