"""The weather on the day of a run: asked once per place, day and unit, then remembered."""

import asyncio
import datetime
import hashlib
import json
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.transactions import get_transaction

from bluesky_prefect.core import ServiceUnavailable, without_secrets
from bluesky_prefect.flows.common._outside import get_json, is_unavailable, unavailable
from bluesky_prefect.flows.weather import _open_meteo as open_meteo

# Belongs to the shape of the data: to be raised when that changes, so that old entries are left alone.
_CACHE_VERSION = 1
# A forecast becomes an observation later; a day is how long it may stand.
_FORECAST_KEPT = datetime.timedelta(hours=24)


def _cache_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    asked = {name: value for name, value in parameters.items() if name != "timeout_s"}
    for coordinate in ("latitude", "longitude"):
        asked[coordinate] = round(asked[coordinate], 4)  # some 10 m
    digest = hashlib.sha256(json.dumps([_CACHE_VERSION, asked], sort_keys=True).encode()).hexdigest()
    return f"bluesky-prefect-weather-{digest[:40]}"


@task(
    name="get_weather",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_cache_key),
    persist_result=True,
    result_serializer="json",
    task_run_name="get_weather {date}",
)
async def get_weather(
    latitude: float, longitude: float, timezone: str, unit: str, date: str, source: str, timeout_s: float
) -> dict[str, Any] | State[Any]:
    """Ask Open-Meteo for the hourly temperatures, sunrise and sunset of a day.

    Parameters
    ----------
    latitude, longitude : float
        In degrees.
    timezone : str
        Name of the time zone that the day and the hours are in.
    unit : str
        ``fahrenheit`` or ``celsius``.
    date : str
        The day, as ``YYYY-MM-DD``.
    source : str
        Address of the API to ask.
    timeout_s : float
        All the time it may take, in seconds.

    Returns
    -------
    dict or State
        See `open_meteo.parse`; a state named ``Unavailable`` that says why, if there is no such answer.
    """
    place = open_meteo.checked_place(latitude, longitude, timezone, unit)
    day = open_meteo.checked_date(date)
    try:
        answer = await asyncio.to_thread(get_json, source, open_meteo.query(place, day), timeout_s=timeout_s)
        # What is kept, shown and written to Tiled; a customer of Open-Meteo has a key in the address.
        return open_meteo.parse(answer, place, day, without_secrets(source))
    except ServiceUnavailable as error:
        _remember_nothing()
        return unavailable(str(error))


@task(name="format_weather", cache_policy=NO_CACHE)
async def format_weather(weather: dict[str, Any]) -> str:
    """Return the weather as the lines of a summary."""
    temperatures = open_meteo.known(weather)
    hours = len(weather["hours"])
    symbol = weather["symbol"]
    mean = sum(temperatures) / len(temperatures)
    part = "" if len(temperatures) == hours else f" (of {len(temperatures)} of {hours} hours)"
    values = {
        "latitude": f"{weather['latitude']:g}",
        "longitude": f"{weather['longitude']:g}",
        "timezone": weather["timezone"],
        "date": weather["date"],
        "min temperature": f"{min(temperatures):.1f} {symbol}{part}",
        "max temperature": f"{max(temperatures):.1f} {symbol}{part}",
        "mean temperature": f"{mean:.1f} {symbol}{part}",
        "sunrise": weather["sunrise"] or "none that day",
        "sunset": weather["sunset"] or "none that day",
        "source": f"Open-Meteo, {weather['source']}",
    }
    return "\n".join(f"{name + ':':<18}{value}" for name, value in values.items())


async def weather_of(
    place: open_meteo.Place,
    day: datetime.date,
    *,
    archive_url: str,
    forecast_url: str,
    timeout_s: float,
    now: datetime.datetime | None = None,
) -> dict[str, Any] | str:
    """Return the weather of a day, from the cache where it can be, or the reason why there is none.

    Parameters
    ----------
    place : open_meteo.Place
        Where.
    day : datetime.date
        When.
    archive_url, forecast_url : str
        Addresses of Open-Meteo's two APIs.
    timeout_s : float
        All the time it may take, in seconds.
    now : datetime.datetime, optional
        The present moment.
    """
    today = (now or datetime.datetime.now(datetime.UTC)).astimezone(place.zone).date()
    archived = open_meteo.is_archived(day, today)
    asked = get_weather if archived else get_weather.with_options(cache_expiration=_FORECAST_KEPT)
    # Prefect's overloads take an asynchronous task that returns its state for a plain one.
    state: State[Any] = await asked(  # pyright: ignore[reportGeneralTypeIssues]
        latitude=place.latitude,
        longitude=place.longitude,
        timezone=place.timezone,
        unit=place.unit,
        date=day.isoformat(),
        source=archive_url if archived else forecast_url,
        timeout_s=timeout_s,
        return_state=True,
    )
    if state.is_completed() and not is_unavailable(state):
        return await state.aresult()
    return state.message or "the weather service failed"


def _remember_nothing() -> None:
    """Keep a failure out of the cache, where the task's transaction would put its (empty) result."""
    transaction = get_transaction()
    if transaction is not None:
        transaction.write_on_commit = False
