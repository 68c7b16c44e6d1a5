"""A fact about cats."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from bluesky_prefect.core import ServiceUnavailable, Settings, get_settings, one_line
from bluesky_prefect.flows.common._outside import get_json, is_unavailable, unavailable
from bluesky_prefect.flows.common._plain_flow import plain_flow
from bluesky_prefect.flows.common._service_record import ServiceRecord


@task(name="get_cat_fact", cache_policy=NO_CACHE)
async def get_cat_fact(settings: Settings) -> str | State[str]:
    """Ask for a fact; a state named ``Unavailable`` says why there is none."""
    url = settings.cat_fact_url
    try:
        with ServiceRecord("cat-fact", url, settings.state_directory).asking():
            answer = await get_json(url, timeout_s=settings.cat_fact_timeout_s)
            fact = answer.get("fact") if isinstance(answer, dict) else None
            if not isinstance(fact, str) or not fact.strip():
                raise ServiceUnavailable("the answer holds no fact")
    except ServiceUnavailable as error:
        return unavailable(str(error))
    return one_line(fact, 1000)


@plain_flow(name="fun-fact", log_prints=True)
async def fun_fact() -> str | State[Any]:
    """Print a fact about cats, or complete as ``Unavailable`` with a message that says why there is none.

    Returns
    -------
    str or None
        The fact.
    """
    settings = get_settings()
    if not settings.cat_fact:
        return unavailable("switched off by BLUESKY_PREFECT_CAT_FACT")
    # Prefect's overloads take an asynchronous task that returns its state for a plain one.
    state: State[str] = await get_cat_fact(settings, return_state=True)  # pyright: ignore[reportGeneralTypeIssues]
    if is_unavailable(state):
        return unavailable(one_line(f"no fun fact: {state.message}"))
    fact = await state.aresult()
    print(fact)
    return fact
