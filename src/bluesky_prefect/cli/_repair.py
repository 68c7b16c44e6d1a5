"""The commands that compare Tiled with Prefect, and start what is missing."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bluesky_prefect.cli import _render_repair as render_repair
from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._made_by import runs_made_by
from bluesky_prefect.cli._options import AsJson, StateDirectory, Workflows, services_of, state_option
from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.reconciliation import TimeWindow, parse_moment

if TYPE_CHECKING:
    from bluesky_prefect.core import WorkflowList


class _Places(NamedTuple):
    """The servers and files that both commands work on."""

    settings: Settings
    catalog: Any
    api: Any
    outbox: Any


@contextmanager
def _places(state_directory: Path | None, workflows: str | None) -> Iterator[_Places]:
    """Open Tiled, Prefect and the outbox: those that the environment names, or those of the running local stack."""
    from bluesky_prefect.stack import require_services

    settings = services_of(state_directory, workflows)
    require_services(settings, options=state_option(state_directory))
    # Prefect and Tiled read the environment when they are imported.
    from bluesky_prefect.outbox import existing_outbox
    from bluesky_prefect.prefect_api import PrefectApi
    from bluesky_prefect.tiled_api import Catalog

    with ExitStack() as opened:
        catalog = opened.enter_context(Catalog.connect(settings))
        api = opened.enter_context(PrefectApi(settings.request_timeout_s, client_retries=True))
        outbox = opened.enter_context(existing_outbox(settings.outbox_path))
        yield _Places(settings, catalog, api, outbox)


def _workflows(places: _Places, named: Sequence[str] = ()) -> "WorkflowList":
    """Return the workflows of the list that is named here; without one, those that a person has named will do."""
    from bluesky_prefect.core import as_workflows, load_workflows
    from bluesky_prefect.reconciliation import lists_in_prefect, require_list_source

    where = places.settings.workflows
    if not where and named:
        terminal.note(
            "The list of workflows is unknown here, and so is what it says about these: name it with --workflows."
        )
        return as_workflows(named)
    return load_workflows(where or require_list_source(None, lists_in_prefect(places.api)))


def reconcile(
    since: Annotated[
        str, typer.Option(help="Runs that stopped since then: how long ago (90m, 24h, 7d), or a date or time.")
    ] = "24h",
    until: Annotated[
        str | None,
        typer.Option(help="Runs that stopped before then, written the same way. Default: no end.", show_default=False),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="Runs of this plan only.", show_default=False)] = None,
    scan_id: Annotated[int | None, typer.Option(help="Runs with this scan id only.", show_default=False)] = None,
    submit: Annotated[
        bool, typer.Option("--submit", help="Start what is missing, and start again what crashed or failed.")
    ] = False,
    as_json: AsJson = False,
    workflows: Workflows = None,
    state_directory: StateDirectory = None,
) -> None:
    """Compare what Tiled holds with what Prefect did, and show each run that was not processed.

    Looks for runs without a flow run, flow runs that crashed, failed, gave no sign of life or were never started,
    dead letters, and runs without a stop document. Starts nothing, unless --submit is given, and only notes in Prefect
    since when a new workflow is on the list; doing it twice, or two people doing it at once, starts nothing twice.
    Nothing is started on runs so old that Prefect may have deleted their flow runs. Without a list of workflows,
    nothing is compared. Ends with 0 if nothing is left to do, with 1 otherwise.
    """
    now = time.time()
    begin, end = parse_moment(since, now), None if until is None else parse_moment(until, now)
    if begin >= (now if end is None else end):
        raise ConfigurationError(f"--since {since} must be earlier than --until {until or 'now'}.")
    window = TimeWindow(begin, end, plan=plan, scan_id=scan_id)
    with terminal.progress("Comparing Tiled with Prefect") as tell, _places(state_directory, workflows) as places:
        from bluesky_prefect.reconciliation import Reconciler

        listed = _workflows(places)
        reconciler = Reconciler(places.catalog, places.api, listed, places.settings, outbox=places.outbox)
        report = reconciler.run(window, submit=submit, report=tell, warn=tell)
    if as_json:
        render_repair.report_as_json(report)
    else:
        render_repair.report(report)
    raise typer.Exit(0 if report.all_processed else 1)


def submit(
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REF...",
            help="Runs: scan ids, uids (or how they begin), negative indexes (-1 is the newest run), ranges such as "
            "1200..1250 or -10..-1. May be left out with --made-by.",
            show_default=False,
        ),
    ] = None,
    workflow: Annotated[
        list[str] | None,
        typer.Option(
            help="Start this one only: the name of a workflow, or any deployment as flow-name/deployment-name. "
            "May be repeated. Default: all workflows of the beamline.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also start it where the run has been processed already.")
    ] = False,
    regardless: Annotated[
        bool, typer.Option("--regardless", help="Also start it where the workflow's when= refuses the run.")
    ] = False,
    made_by: Annotated[
        str | None,
        typer.Option(
            "--made-by",
            metavar="VERSION",
            help="Again, and only the runs with results in Tiled that these versions of bluesky-prefect made, such as "
            "'<0.2' or '==0.1.0'. Asks before it starts anything.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Have a worker take it next, with the runs that have just ended, not after them."),
    ] = False,
    parameters: Annotated[
        str | None,
        typer.Option(
            help='JSON object of parameters that win over the workflow\'s own, such as \'{"date": "2026-01-01"}\'.',
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    workflows: Workflows = None,
    state_directory: StateDirectory = None,
) -> None:
    """Start the beamline's workflows on runs of the past.

    A run that has been processed, or is being processed, or is so old that its flow run may be deleted in Prefect, is
    left alone, unless --again is given; so is one that the workflow's when= refuses, unless --regardless is given.
    Ends with 0 if nothing was refused, with 1 otherwise.
    """
    refs = refs or []
    if not refs and made_by is None:
        raise typer.BadParameter("Name the runs, or give --made-by.")
    for ref in refs:
        if ref.startswith("-") and not ref[1:2].isdigit():
            raise typer.BadParameter(f"No such option: {ref}")
    overrides = _overrides(parameters)
    with _places(state_directory, workflows) as places:
        from bluesky_prefect.reconciliation import (
            FlowRunStarter,
            ResubmissionRequest,
            choose_workflows,
            remembered_since,
            resubmit,
        )
        from bluesky_prefect.tiled_api import runs_named

        chosen = choose_workflows(_workflows(places, workflow or ()), workflow or [])
        with terminal.progress("Looking up the runs"):
            runs = list({run.uid: run for _, run in runs_named(places.catalog, refs)}.values())
            wanted: Any = [(runs, chosen)]
            if made_by is not None:
                wanted = runs_made_by(places.catalog, made_by, chosen, runs if refs else None)
        if made_by is not None and wanted and not (yes or dry_run):
            typer.confirm("Submit them again?", abort=True, err=True)
        again |= made_by is not None
        request = ResubmissionRequest(
            again=again,
            regardless=regardless,
            dry_run=dry_run,
            overrides=overrides,
            live=live,
            remembered_since=remembered_since(places.api, places.settings, places.api.now(), _warn),
        )
        starter = FlowRunStarter(places.api, places.outbox, beamline=places.settings.beamline)
        made = (resubmit(runs, ones, request, api=places.api, starter=starter) for runs, ones in wanted)
        total = sum(len(runs) * len(ones) for runs, ones in wanted)
        outcomes = list(render_repair.with_bar(chain.from_iterable(made), total))
    if as_json:
        render_repair.outcomes_as_json(outcomes)
    elif wanted:
        render_repair.outcomes(outcomes, dry_run=dry_run)
    raise typer.Exit(1 if any(outcome.refused for outcome in outcomes) else 0)


def _warn(remark: str) -> None:
    typer.echo(remark, err=True)


def _overrides(parameters: str | None) -> dict[str, Any] | None:
    if parameters is None:
        return None
    try:
        given = json.loads(parameters)
    except ValueError as error:
        raise ConfigurationError(
            f"--parameters is not JSON ({error}). Write an object in single quotes: "
            """--parameters '{"date": "2026-01-01"}'."""
        ) from error
    if not isinstance(given, dict):
        raise ConfigurationError("--parameters is not a JSON object of names and values.")
    return given
