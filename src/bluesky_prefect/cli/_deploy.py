"""The command that deploys flows: this package's, and those that people write."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._options import BeamlineName, StateDirectory, Workflows, services_of, settings_from
from bluesky_prefect.core import (
    BlueskyPrefectError,
    ConfigurationError,
    Settings,
    StackError,
    file_of_list,
    load_workflows,
    prefect_url,
)
from bluesky_prefect.reconciliation import LIST_PARAMETER, require_list_source

if TYPE_CHECKING:
    from bluesky_prefect.prefect_api import Beamline

_SHARED = (
    "It compares each run of the catalog with the list {}. If beamlines share a catalog, the list has to say which "
    "runs are its own: WorkflowList([...], ours=lambda run: run.start.get('beamline_id') == '...')"
)
_READY = {True: "is ready now", False: "was ready already"}


def deploy(
    own: Annotated[
        str | None,
        typer.Argument(metavar="[FILE.py:FUNCTION]", help="A flow of your own, in a file.", show_default=False),
    ] = None,
    work_pool: Annotated[
        str | None,
        typer.Option(
            help="Work pool of the Prefect server; it has to exist, unless it is a beamline's. "
            "Default: the beamline's, bluesky-NAME; for a flow in a file that of the local stack.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the deployment. Default: that of the beamline, or local.", show_default=False),
    ] = None,
    beamline: BeamlineName = None,
    reconcile_every: Annotated[
        float | None,
        typer.Option(
            min=10,
            help="Deploy 'reconcile' too, to run every so many seconds: it starts again what crashed.",
            show_default=False,
        ),
    ] = None,
    workflows: Workflows = None,
    move: Annotated[
        bool,
        typer.Option(
            "--move",
            help="Change deployments of these names even if they use another work pool, catalog, list or file.",
        ),
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Put the flow on the list of workflows too: the next run starts it.")
    ] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Deploy a flow from a file on this machine, or this package's flows.

    They go to the Prefect server that PREFECT_API_URL or the active Prefect profile names, else to the running local
    stack. Of a flow in a file, the line that puts it on the list of workflows is shown.

    Without one, my-workflow, data-validation and find-peak are deployed. On a server of your own, the workers need this
    package installed, and BLUESKY_PREFECT_TILED_URI and TILED_API_KEY in their environment. The local stack has these
    deployments already.

    With --beamline, all that a beamline needs among others is made: its work pool, its containers in Tiled where that
    can be done from here, and its deployments.
    """
    if beamline is not None:
        os.environ["BLUESKY_PREFECT_BEAMLINE"] = beamline
    if own is not None:
        if reconcile_every is not None:
            raise ConfigurationError("--reconcile-every deploys this package's flows: say it without a file.")
        given = settings_from(workflows=workflows, state_directory=state_directory)
        os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(given.state_directory)
        if workflows:
            os.environ["BLUESKY_PREFECT_WORKFLOWS"] = given.workflows or ""
        _deploy_file(own, work_pool=work_pool, name=name, move=move, add=add)
        return
    settings = settings_from(workflows=workflows, state_directory=state_directory)
    if (work_pool is None and settings.beamline is None) or add:
        raise ConfigurationError(
            "Say what to deploy: a flow in a file (bluesky-prefect deploy my_flow.py:my_function), or this package's "
            "flows, with --work-pool or --beamline."
        )
    # Before anything is deployed, and not the local stack's list: that is of its own deployments.
    compared_with = "" if reconcile_every is None else require_list_source(settings.workflows)
    if state_directory is not None or not prefect_url():
        # Tiled's address too: a server of one's own has a Tiled of its own.
        settings = services_of(state_directory)
        _require_prefect()
    _deploy_shipped(work_pool or settings.work_pool, name, reconcile_every, compared_with, settings, move=move)


def _require_prefect() -> None:
    from bluesky_prefect.stack import PATIENCE_S, prefect_service

    if (prefect := prefect_service(PATIENCE_S)).problem:
        raise StackError(f"Prefect is not there ({prefect.cause}): {prefect.remedy}.")


def _deploy_shipped(
    work_pool: str,
    given_name: str | None,
    reconcile_every: float | None,
    compared_with: str,
    settings: Settings,
    *,
    move: bool,
) -> None:
    """Deploy this package's flows; `compared_with` is the list that `reconcile` follows."""
    name = given_name or settings.deployment_name
    import anyio

    from bluesky_prefect.flows import data_validation, find_peak, my_workflow
    from bluesky_prefect.prefect_api import Beamline, list_problem, refuse_to_take_over, tiled_problem
    from bluesky_prefect.prefect_api import deploy as deploy_flow
    from bluesky_prefect.reconciliation import note_list, reconcile

    flows = [my_workflow, data_validation, find_peak, *([] if reconcile_every is None else [reconcile])]
    beamline = Beamline.of(settings)
    kept = {} if reconcile_every is None else {LIST_PARAMETER: compared_with}
    with terminal.progress("Deploying") as report:
        if not move:
            refuse = partial(refuse_to_take_over, beamline=beamline, parameters=kept)
            anyio.run(refuse, [f"{flow.name}/{name}" for flow in flows], work_pool)
        # Read when Tiled's client is imported: its own patience with a server that is away is 45 s.
        os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")
        for line in (*_prepared_pool(work_pool, beamline), *_made_containers(settings)):
            report(line)
        deploy_it = partial(deploy_flow, beamline=beamline)
        deployed = anyio.run(deploy_it, my_workflow, name, work_pool)
        report(f'Deployed {deployed}. Subscribe it with: RE.subscribe(PrefectCallback("{deployed}"))')
        for flow in (data_validation, find_peak):
            report(f"Deployed {anyio.run(deploy_it, flow, name, work_pool)}. Subscribe it too if you want it.")
        if beamline is None and (problem := tiled_problem(settings)):
            report(problem)
        if reconcile_every is not None:
            deployed = anyio.run(
                partial(deploy_it, reconcile, name, work_pool, every_s=reconcile_every, parameters=kept)
            )
            report(f"Deployed {deployed}, to run every {reconcile_every:g} s. {_SHARED.format(compared_with)}")
            if problem := list_problem(compared_with):
                report(f"The workers need that list, and it cannot be loaded here. {problem}")
            else:
                note_list(compared_with, settings.request_timeout_s)


def _prepared_pool(work_pool: str, beamline: "Beamline | None") -> Iterator[str]:
    """Make the work pool of a beamline, and the queues of any; yield what was done, a line each."""
    import anyio

    from bluesky_prefect.prefect_api import prepare_pool, prepare_queues

    if beamline is not None:
        yield anyio.run(prepare_pool, work_pool, beamline)
    yield anyio.run(prepare_queues, work_pool)


def _made_containers(settings: Settings) -> Iterator[str]:
    """Make the containers of a beamline, if that can be done from here; yield what was done, a line each."""
    if settings.beamline is None:
        return
    from bluesky_prefect.tiled_api import Catalog

    raw, processed = settings.raw_container, settings.processed_container
    try:
        with Catalog.connect(settings) as catalog:
            yield f"The catalog {raw} of Tiled at {catalog.name} {_READY[catalog.make_raw()]}."
            had = catalog.has_processed()
            catalog.processed()
            yield f"The container {processed} of Tiled at {catalog.name} {_READY[not had]}."
    except BlueskyPrefectError as error:
        yield f"{raw} and {processed} are to be made in Tiled by somebody who may (make-catalog). {error}"


def _deploy_file(where: str, *, work_pool: str | None, name: str | None, move: bool, add: bool) -> None:
    """Deploy a flow of a file, and show its line for the list of workflows."""
    from bluesky_prefect.stack import use_services

    path = Path(where.partition(":")[0]).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise ConfigurationError(f"There is no file {path.absolute()}.")
    settings = use_services()
    _require_prefect()
    # It imports Prefect, which reads the environment then.
    import anyio

    from bluesky_prefect.prefect_api import Beamline, flow_in_file, refuse_to_take_over, unfilled_parameters
    from bluesky_prefect.prefect_api import deploy as deploy_flow

    pool, beamline = work_pool or settings.work_pool, Beamline.of(settings)
    name = name or settings.deployment_name
    with terminal.progress("Deploying") as report:
        flow, entrypoint = flow_in_file(where)
        if not move:
            refuse = partial(refuse_to_take_over, entrypoint=entrypoint, beamline=beamline)
            anyio.run(refuse, [f"{flow.name}/{name}"], pool)
        for line in _prepared_pool(pool, beamline):
            report(line)
        deployed = anyio.run(partial(deploy_flow, flow, name, pool, entrypoint=entrypoint, beamline=beamline))
        report(f"Deployed {deployed}. Each flow run reads {path}: what you change there counts from the next one on.")
        if unfilled := unfilled_parameters(flow):
            report(
                f"A run does not fill {', '.join(unfilled)}: give a default, or parameters= in the list of workflows."
            )
    _list(settings.workflows, deployed, add=add)


def _list(listed_at: str | None, deployment: str, *, add: bool) -> None:
    """Put a deployment on the list of workflows, or show the line that does."""
    from bluesky_prefect.stack import add_to_list, line_for

    if listed_at and _is_listed(listed_at, deployment, tell=not add):
        terminal.note(f"It was already on the list of what runs start: {listed_at}")
        return
    if listed_at and file_of_list(listed_at):
        line = line_for(listed_at, deployment)
        if add:
            add_to_list(listed_at, deployment)
            terminal.note(f"It is now on the list, and starts with the next run that begins: {listed_at}")
        else:
            terminal.note(f"To start it when a run ends, say --add, or add this line to {listed_at}:")
        terminal.show(terminal.out(), line)
        return
    where = f"the list {listed_at}" if listed_at else "the list that your sessions subscribe"
    line = f'Workflow("{deployment}")'
    if add:
        raise ConfigurationError(f"It was deployed, but {where} is not a file that --add could write to: add {line}.")
    terminal.note(f"To start it when a run ends, add this to {where}, and start the sessions again:")
    terminal.show(terminal.out(), line)


def _is_listed(listed_at: str, deployment: str, *, tell: bool) -> bool:
    try:
        return any(one.deployment == deployment for one in load_workflows(listed_at))
    except ConfigurationError as error:
        if tell:
            terminal.note(str(error))
        return False
