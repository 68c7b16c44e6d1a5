"""The deployment of ``my-workflow``, on whichever Prefect server the process is set to."""

from typing import Any

from bluesky_prefect.exceptions import ConfigurationError, PrefectUnavailable

FLOW = "my-workflow"


async def deploy(name: str, work_pool: str, job_variables: dict[str, Any] | None = None) -> str:
    """Make the deployment ``my-workflow/<name>``, or bring the one that exists up to date.

    Its entry point is the installed package, which has to be on the path of whatever executes its flow runs: nothing
    is pulled or copied.

    Parameters
    ----------
    name : str
        Name of the deployment.
    work_pool : str
        Name of the work pool; it has to exist.
    job_variables : dict, optional
        What to change of the work pool's job template.

    Returns
    -------
    str
        The full name, as `PrefectCallback` takes it.

    Raises
    ------
    ConfigurationError
        If Prefect has no such work pool, or no Prefect server is set.
    PrefectUnavailable
        If the server cannot be reached, or refuses.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import RunnerDeployment
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings
    from prefect.types.entrypoint import EntrypointType

    from bluesky_prefect.flows import my_workflow

    # Without an address Prefect would start a server of its own, deploy there, and end it.
    url = get_current_settings().api.url
    if not url:
        raise ConfigurationError(
            "No Prefect API is configured. Set PREFECT_API_URL, for example with "
            "'prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api'."
        )
    deployment = RunnerDeployment.from_flow(
        my_workflow,
        name=name,
        work_pool_name=work_pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
        job_variables=job_variables,
        description="Reads a Bluesky run from Tiled and exports it.",
    )
    try:
        async with get_client() as client:
            # Asked first: to a deployment on an unknown pool, Prefect 3.8.8 may answer "internal server error".
            await client.read_work_pool(work_pool)
        await deployment.aapply()
    except ObjectNotFound as error:
        raise ConfigurationError(
            f"Prefect at {url} has no work pool {work_pool!r}. Make it first, for example with "
            f"'prefect work-pool create {work_pool} --type process'."
        ) from error
    except httpx.HTTPError as error:
        raise PrefectUnavailable(f"Prefect at {url} cannot be asked: {error}") from error
    return f"{FLOW}/{name}"
