"""A fact about cats."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from bluesky_prefect.core import ServiceUnavailable, get_settings, one_line
from bluesky_prefect.flows.common._outside import get_json, is_unavailable, unavailable
from bluesky_prefect.flows.common._plain_flow import plain_flow


@task(name="get_cat_fact", cache_policy=NO_CACHE)
async def get_cat_fact(url: str, timeout_s: float) -> str | State[str]:
    """Ask for a fact, which may take `timeout_s` seconds; a state named ``Unavailable`` says why there is none."""
    try:
        answer = await get_json(url, timeout_s=timeout_s)
    except ServiceUnavailable as error:
        return unavailable(str(error))
    fact = answer.get("fact") if isinstance(answer, dict) else None
    if not isinstance(fact, str) or not fact.strip():
        return unavailable("the answer holds no fact")
    return one_line(fact, 1000)


@plain_flow(name="fun-fact", log_prints=True)
async def fun_fact() -> str | State[str]:
    """Print a fact about cats, or fail with a message that says why there is none.

    Returns
    -------
    str
        The fact.
    """
    settings = get_settings()
    # Prefect's overloads take an asynchronous task that returns its state for a plain one.
    state: State[str] = await get_cat_fact(settings.cat_fact_url, settings.cat_fact_timeout_s, return_state=True)  # pyright: ignore[reportGeneralTypeIssues]
    if is_unavailable(state) or not state.is_completed():
        return Failed(message=one_line(f"no fun fact: {state.message}"))
    fact = await state.aresult()
    print(fact)
    return fact
