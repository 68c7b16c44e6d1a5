"""Reconciliation as a Prefect flow, to be run on a schedule."""

import asyncio
import time
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from bluesky_prefect.core import counted, get_settings, load_workflows, one_line
from bluesky_prefect.flows import plain_flow
from bluesky_prefect.outbox import existing_outbox
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.reconciliation._list_source import require_list_source
from bluesky_prefect.reconciliation._reconciler import Reconciler
from bluesky_prefect.reconciliation._report import Report
from bluesky_prefect.reconciliation._time_window import TimeWindow, moment, parse_moment
from bluesky_prefect.tiled_api import Catalog


@plain_flow(name="reconcile", log_prints=True)
async def reconcile(since: str = "24h", submit: bool = True, workflows: str | None = None) -> State[Any]:
    """Compare Tiled's runs with Prefect's flow runs, and start what is missing or has crashed.

    Ends as failed while there is something that it cannot repair by itself, so that somebody sees it.

    Parameters
    ----------
    since : str
        How far back to look: ``24h``, ``7d``, or a date.
    submit : bool
        Whether to start what is missing; else it only looks.
    workflows : str, optional
        Where the list of workflows is, as ``module:attribute``: what a run should have had. The deployment holds it
        (``bluesky-prefect deploy --reconcile-every``); else the worker's ``BLUESKY_PREFECT_WORKFLOWS`` has to.
    """
    return _state(await asyncio.to_thread(_compare, since, submit, workflows))


def _compare(since: str, submit: bool, where: str | None) -> Report:
    settings, logger = get_settings(), get_run_logger()
    if where and settings.workflows not in (None, where):
        logger.warning("Comparing with %s, which the deployment names, and not with this worker's own list.", where)
    workflows = load_workflows(require_list_source(where or settings.workflows))
    window = TimeWindow(parse_moment(since, time.time()))
    with (
        Catalog.connect(settings) as catalog,
        PrefectApi(settings.request_timeout_s, client_retries=True) as api,
        existing_outbox(settings.outbox_path) as outbox,
    ):
        reconciler = Reconciler(catalog, api, workflows, settings, outbox=outbox)
        return reconciler.run(window, submit=submit, patient=True, report=logger.info, warn=logger.warning)


def _state(report: Report) -> State[Any]:
    logger = get_run_logger()
    for finding in report.findings:
        text = f"Run {finding.run_uid}, {finding.workflow or 'the run'}: {finding.state}"
        parts = (text, finding.reason, finding.action or finding.remedy)
        (logger.info if finding.solved else logger.error)(one_line(". ".join(filter(None, parts)), 1000))
    message = f"{counted(report.runs, 'run')} since {moment(report.since)}, {report.summary}"
    if report.all_processed:
        return Completed(message=message)
    return Failed(message=f"{message}. See: bluesky-prefect reconcile")
