"""Deployments of flows, on whichever Prefect server the process is set to."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import (
    BlueskyPrefectError,
    ConfigurationError,
    PrefectUnavailable,
    Settings,
    load_workflows,
    without_secrets,
)
from bluesky_prefect.prefect_api._api_errors import NO_API, prefect_errors, said
from bluesky_prefect.prefect_api._beamline import Beamline, catalog_of
from bluesky_prefect.prefect_api._work_queues import make_work_queues
from bluesky_prefect.tiled_api import spec_problem

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

# What Prefect's `LocalStorage` has a worker do first.
_GO_TO = "prefect.deployments.steps.set_working_directory"
# Types of work pools whose flow runs see the files of their worker's machine.
_OF_A_MACHINE = ("warm-process", "process")


async def deploy(
    flow: "Flow[..., Any]",
    name: str,
    work_pool: str,
    *,
    entrypoint: str = "",
    job_variables: dict[str, Any] | None = None,
    every_s: float | None = None,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    beamline: Beamline | None = None,
) -> str:
    """Make the deployment ``<flow>/<name>``, or bring the one that exists up to date.

    Nothing is copied: whatever executes its flow runs has to have this package on its path, or the file.

    Parameters
    ----------
    flow : Flow
        A flow of this package, or of a file.
    name : str
        Name of the deployment.
    work_pool : str
        Name of the work pool; it has to exist.
    entrypoint : str, optional
        Where a flow of a file is, as ``/path/to/file.py:name``: it is read anew for each flow run.
    job_variables : dict, optional
        What to change of the work pool's job template.
    every_s : float, optional
        Run it by itself, each time that so many seconds have passed; never two at once, and what was missed while
        no worker was there is not made up for.
    parameters : mapping, optional
        What its flow runs are called with, if whoever starts them says nothing else.
    beamline : Beamline, optional
        The beamline that it is for, if that has a name.

    Returns
    -------
    str
        The full name, as `PrefectCallback` takes it.

    Raises
    ------
    ConfigurationError
        If Prefect has no such work pool, or no Prefect server is set, or flow runs of the pool see no file.
    PrefectUnavailable
        If the server cannot be reached, or refuses.
    """
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner.storage import LocalStorage
    from prefect.types.entrypoint import EntrypointType

    if beamline is not None:
        # Also where the pool does not say it, or says it of several beamlines' flow runs.
        given = job_variables or {}
        job_variables = {**given, "env": {**given.get("env", {}), **beamline.environment}}
    deployment = RunnerDeployment.from_flow(
        flow,
        name=name,
        work_pool_name=work_pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        job_variables=job_variables,
        description=flow.description and flow.description.partition("\n")[0],
        parameters=dict(parameters),
        tags=beamline and beamline.tags,
        **({} if every_s is None else _schedule(every_s)),
    )
    if entrypoint:
        folder, _, deployment.entrypoint = entrypoint.rpartition("/")
        deployment.storage = LocalStorage(folder)
    else:
        # The face of its room, whatever file of that it is in.
        deployment.entrypoint = ".".join([*flow.fn.__module__.split(".")[:2], flow.fn.__name__])
    async with _client_for(work_pool) as client:
        if entrypoint:
            await _require_this_machine(client, work_pool, entrypoint)
        if beamline is not None:
            before = await _found(client, f"{flow.name}/{name}")
            deployment.description = beamline.describe(
                deployment.description or flow.name, before and before.description
            )
        if every_s is not None:
            await _forget_missed(f"{flow.name}/{name}")
        await deployment.aapply()
    return f"{flow.name}/{name}"


async def prepare_pool(work_pool: str, beamline: Beamline) -> str:
    """Make the work pool of a beamline, if it is not there, and return what was done; see `Beamline.make_pool`.

    The errors are those of `prepare_queues`; a pool of another beamline is a `ConfigurationError`.
    """
    async with _client_for(None) as client:
        return await beamline.make_pool(client, work_pool)


async def prepare_queues(work_pool: str) -> str:
    """Make the work queues that a work pool lacks, and return what it has now, in a line; see `make_work_queues`.

    Raises
    ------
    ConfigurationError
        If Prefect has no such work pool, or no Prefect server is set.
    PrefectUnavailable
        If the server cannot be reached.
    """
    async with _client_for(work_pool) as client:
        return await make_work_queues(client, work_pool)


async def _require_this_machine(client: "PrefectClient", work_pool: str, entrypoint: str) -> None:
    kind = (await client.read_work_pool(work_pool)).type
    if kind not in _OF_A_MACHINE:
        raise ConfigurationError(
            f"The work pool {work_pool!r} is of type {kind}: its flow runs do not see {entrypoint}. Name a pool of type"
            f" {' or '.join(_OF_A_MACHINE)} with --work-pool, or put the file into an image (Prefect's flow.deploy)."
        )


async def refuse_to_take_over(
    deployments: Sequence[str],
    work_pool: str,
    *,
    entrypoint: str = "",
    beamline: Beamline | None = None,
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Raise an error if one of the deployments exists and looks like somebody else's.

    It is on another work pool, or is that of another file than `entrypoint`, which `deploy` takes too. Where a
    beamline has a name, it may also be for another catalog, or hold another value of one of these parameters.

    Raises
    ------
    ConfigurationError
        If one does, or Prefect has no pool of that name, or no Prefect server is set.
    PrefectUnavailable
        If the server cannot be reached, or refuses.
    """
    elsewhere: list[str] = []
    # That of a beamline is made later.
    async with _client_for(work_pool if beamline is None else None) as client:
        for name in deployments:
            if (found := await _found(client, name)) is None:
                continue
            if found.work_pool_name not in (None, work_pool):
                elsewhere.append(f"{name} on work pool {found.work_pool_name!r}")
            elif entrypoint not in ("", what := _what_it_runs(found)):
                elsewhere.append(f"{name}, which runs {what}")
            elif beamline is not None and (why := _another(found, beamline, parameters)):
                elsewhere.append(f"{name}, which is for {why}")
    if elsewhere:
        raise ConfigurationError(
            f"Prefect already has {', '.join(elsewhere)}, which may be somebody else's, so nothing was changed. Choose "
            "another name with --name. If these deployments are yours, change them with --move."
        )


async def _found(client: "PrefectClient", name: str) -> "DeploymentResponse | None":
    from prefect.exceptions import ObjectNotFound

    with suppress(ObjectNotFound):
        return await client.read_deployment_by_name(name)
    return None


def _another(deployment: "DeploymentResponse", beamline: Beamline, parameters: Mapping[str, Any]) -> str:
    """Return what a deployment is for that this beamline is not, and what it is for; empty if there is nothing."""
    theirs = catalog_of(deployment.description)
    if theirs and not beamline.may_be_for(theirs):
        return f"{theirs}, and this is for {beamline.catalog}"
    for name, value in parameters.items():
        if (other := (deployment.parameters or {}).get(name)) not in (None, value):
            return f"{name}={other}, and this is for {name}={value}"
    return ""


def _what_it_runs(deployment: "DeploymentResponse") -> str:
    """Return the entrypoint of a deployment as `deploy` takes it: with the folder that its pull step goes to."""
    steps = deployment.pull_steps or []
    folders = [step[_GO_TO]["directory"] for step in steps if isinstance(step, dict) and _GO_TO in step]
    return "/".join([*folders[-1:], deployment.entrypoint or "?"])


@asynccontextmanager
async def _client_for(work_pool: str | None) -> "AsyncIterator[PrefectClient]":
    """Open Prefect's client, if there is such a work pool; what goes wrong becomes an error that says what to do.

    Without the name of one, none has to be there.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    # Without an address Prefect would start a server of its own, deploy there, and end it.
    url = get_current_settings().api.url
    if not url:
        raise ConfigurationError(NO_API)
    try:
        with prefect_errors():
            async with get_client() as client:
                # To a deployment on an unknown pool, Prefect 3.8.8 may answer "internal server error".
                if work_pool is not None:
                    await client.read_work_pool(work_pool)
                yield client
    except ObjectNotFound as error:
        raise ConfigurationError(
            f"Prefect at {without_secrets(url)} has no work pool {work_pool!r}. Make it first, for example with "
            f"'prefect work-pool create {work_pool} --type warm-process'."
        ) from error
    except httpx.HTTPStatusError as error:
        # Not the error's own text, which holds the address as it is set.
        status = error.response.status_code
        raise PrefectUnavailable(f"Prefect at {without_secrets(url)} refuses ({status}): {said(error)}") from error


def _schedule(every_s: float) -> dict[str, Any]:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Interval

    every = timedelta(seconds=every_s)
    return {
        # Not at once: whoever has just started a stack has other things to do.
        "schedule": Interval(every, anchor_date=datetime.now(UTC) + every),
        "concurrency_limit": ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
    }


async def _forget_missed(deployment: str) -> None:
    """Delete the flow runs that the schedule has made and nobody has started, also those that are overdue."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return
        waiting = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
        its = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        for flow_run in await client.read_flow_runs(flow_run_filter=waiting, deployment_filter=its):
            if flow_run.auto_scheduled and flow_run.run_count == 0:
                await client.delete_flow_run(flow_run.id)


def list_problem(where: str) -> str:
    """Return why reconciliation in this environment could not have the list of workflows, or an empty string."""
    try:
        load_workflows(where)
    except ConfigurationError as error:
        return str(error)
    return ""


def tiled_problem(settings: Settings) -> str:
    """Return what flow runs with these settings would miss in Tiled, or an empty string if all is there."""
    from bluesky_prefect.tiled_api import Catalog

    try:
        with Catalog.connect(settings) as catalog:
            return spec_problem(catalog.raw, catalog.name)
    except BlueskyPrefectError as error:
        return f"In this environment its flow runs would fail; the workers' own is what counts. {error}"
