"""The command that deploys flows: this package's, and those that people write."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._options import StateDirectory, Workflows, settings_from
from bluesky_prefect.core import ConfigurationError, StackError, file_of_list
from bluesky_prefect.reconciliation import LIST_PARAMETER, require_list_source

_SHARED = (
    "It compares each run of the catalog with the list {}. If beamlines share a catalog, the list has to say which "
    "runs are its own: WorkflowList([...], ours=lambda run: run.start.get('beamline_id') == '...')"
)


def deploy(
    own: Annotated[
        str | None,
        typer.Argument(metavar="[FILE.py:FUNCTION]", help="A flow of your own, in a file.", show_default=False),
    ] = None,
    work_pool: Annotated[
        str | None,
        typer.Option(
            help="Work pool of the Prefect server; it has to exist. Default for a flow in a file: the local stack's.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the deployment.")] = "local",
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
        typer.Option("--move", help="Take over deployments that are on another work pool, or of another file."),
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Put the flow on the list of workflows too: the next run starts it.")
    ] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Deploy a flow from a file on this machine, or this package's flows.

    A flow in a file goes to the Prefect server that the environment names, else to the running local stack. The line
    that puts it on the list of workflows is shown.

    Without one, my-workflow, data-validation and find-peak go to a server of your own, the one that PREFECT_API_URL or
    the active Prefect profile names. Its workers need this package installed, and BLUESKY_PREFECT_TILED_URI and
    TILED_API_KEY in their environment. The local stack has these deployments already.
    """
    if own is not None:
        if reconcile_every is not None:
            raise ConfigurationError("--reconcile-every deploys this package's flows: say it without a file.")
        given = settings_from(workflows=workflows, state_directory=state_directory)
        os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(given.state_directory)
        if workflows:
            os.environ["BLUESKY_PREFECT_WORKFLOWS"] = given.workflows or ""
        _deploy_file(own, work_pool=work_pool, name=name, move=move, add=add)
        return
    if work_pool is None or add:
        raise ConfigurationError(
            "Say what to deploy: a flow in a file (bluesky-prefect deploy my_flow.py:my_function), or this package's "
            "flows, with --work-pool."
        )
    _deploy_shipped(work_pool, name, reconcile_every, workflows, move=move)


def _deploy_shipped(
    work_pool: str, name: str, reconcile_every: float | None, workflows: str | None, *, move: bool
) -> None:
    """Deploy this package's flows."""
    settings = settings_from(workflows=workflows)
    # Before anything is deployed.
    compared_with = "" if reconcile_every is None else require_list_source(settings.workflows)
    import anyio

    from bluesky_prefect.flows import data_validation, find_peak, my_workflow
    from bluesky_prefect.prefect_api import deploy as deploy_flow
    from bluesky_prefect.prefect_api import list_problem, prepare_queues, refuse_to_take_over, tiled_problem
    from bluesky_prefect.reconciliation import note_list, reconcile

    flows = [my_workflow, data_validation, find_peak, *([] if reconcile_every is None else [reconcile])]
    with terminal.progress("Deploying") as report:
        if not move:
            anyio.run(refuse_to_take_over, [f"{flow.name}/{name}" for flow in flows], work_pool)
        report(anyio.run(prepare_queues, work_pool))
        deployed = anyio.run(deploy_flow, my_workflow, name, work_pool)
        report(f'Deployed {deployed}. Subscribe it with: RE.subscribe(PrefectCallback("{deployed}"))')
        for flow in (data_validation, find_peak):
            report(f"Deployed {anyio.run(deploy_flow, flow, name, work_pool)}. Subscribe it too if you want it.")
        # Read when Tiled's client is imported: its own patience with a server that is away is 45 s.
        os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")
        if problem := tiled_problem(settings_from()):
            report(problem)
        if reconcile_every is not None:
            kept = {LIST_PARAMETER: compared_with}
            deployed = anyio.run(
                partial(deploy_flow, reconcile, name, work_pool, every_s=reconcile_every, parameters=kept)
            )
            report(f"Deployed {deployed}, to run every {reconcile_every:g} s. {_SHARED.format(compared_with)}")
            if problem := list_problem(compared_with):
                report(f"The workers need that list, and it cannot be loaded here. {problem}")
            else:
                note_list(compared_with, settings.request_timeout_s)


def _deploy_file(where: str, *, work_pool: str | None, name: str, move: bool, add: bool) -> None:
    """Deploy a flow of a file, and show its line for the list of workflows."""
    from bluesky_prefect.stack import prefect_service, use_services

    path = Path(where.partition(":")[0]).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise ConfigurationError(f"There is no file {path.absolute()}.")
    settings = use_services()
    if (prefect := prefect_service()).problem:
        raise StackError(f"Prefect is not there ({prefect.cause}): {prefect.remedy}.")
    # It imports Prefect, which reads the environment then.
    import anyio

    from bluesky_prefect.prefect_api import deploy as deploy_flow
    from bluesky_prefect.prefect_api import flow_in_file, prepare_queues, refuse_to_take_over, unfilled_parameters

    pool = work_pool or settings.work_pool
    with terminal.progress("Deploying") as report:
        flow, entrypoint = flow_in_file(where)
        if not move:
            anyio.run(partial(refuse_to_take_over, entrypoint=entrypoint), [f"{flow.name}/{name}"], pool)
        deployed = anyio.run(partial(deploy_flow, flow, name, pool, entrypoint=entrypoint))
        report(anyio.run(prepare_queues, pool))
        report(f"Deployed {deployed}. Each flow run reads {path}: what you change there counts from the next one on.")
        if unfilled := unfilled_parameters(flow):
            report(
                f"A run does not fill {', '.join(unfilled)}: give a default, or parameters= in the list of workflows."
            )
    _list(settings.workflows, deployed, add=add)


def _list(listed_at: str | None, deployment: str, *, add: bool) -> None:
    """Put a deployment on the list of workflows, or show the line that does."""
    from bluesky_prefect.stack import add_to_list, line_for

    if listed_at and file_of_list(listed_at):
        line = line_for(listed_at, deployment)
        if add:
            how = "is now" if add_to_list(listed_at, deployment) else "was already"
            terminal.note(f"It {how} on the list, and starts with the next run that begins: {listed_at}")
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
