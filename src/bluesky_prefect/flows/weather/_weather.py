"""The weather on the day of a run: asked once per place, day and unit, then remembered."""

import datetime
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.transactions import get_transaction
from prefect.utilities.hashing import hash_objects

from bluesky_prefect.core import MadeBy, ServiceUnavailable, Settings, one_line, without_secrets
from bluesky_prefect.flows.common._outside import Patience, get_json, is_unavailable, unavailable
from bluesky_prefect.flows.common._service_record import ServiceRecord
from bluesky_prefect.flows.weather import _open_meteo as open_meteo
from bluesky_prefect.tiled_api import Catalog, RunData, result_key, write_result

# Belongs to the shape of the data: to be raised when that changes, so that old entries are left alone.
_CACHE_VERSION = 1
_RESULT = "temperature"
# A forecast becomes an observation later; a day is how long it may stand.
_FORECAST_KEPT = datetime.timedelta(hours=24)


def _cache_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    asked = {name: value for name, value in parameters.items() if name not in ("record", "timeout_s", "patience")}
    for coordinate in ("latitude", "longitude"):
        asked[coordinate] = round(asked[coordinate], 4)  # some 10 m
    return f"bluesky-prefect-weather-{hash_objects(_CACHE_VERSION, asked)}"


@task(
    name="get_weather",
    cache_key_fn=_cache_key,
    persist_result=True,
    result_serializer="json",
    task_run_name="get_weather {date}",
)
async def get_weather(
    latitude: float,
    longitude: float,
    timezone: str,
    unit: str,
    name: str,
    date: str,
    source: str,
    record: ServiceRecord,
    timeout_s: float,
    patience: Patience,
) -> dict[str, Any] | State[Any]:
    """Ask Open-Meteo for the weather of a day; see `open_meteo.parse`.

    A state named ``Unavailable`` says why there is none. `source` is the address of the API; for `timeout_s` and
    `patience` see `get_json`.
    """
    place = open_meteo.checked_place(latitude, longitude, timezone, unit, name)
    day = open_meteo.checked_date(date)
    try:
        with record.asking():
            asked = open_meteo.query(place, day)
            answer = await get_json(source, asked, timeout_s=timeout_s, patience=patience)
            # What is kept, shown and written to Tiled; a customer of Open-Meteo has a key in the address.
            return open_meteo.parse(answer, place, day, without_secrets(source))
    except ServiceUnavailable as error:
        # Kept out of the cache, where the task's transaction would put the (empty) result.
        if (transaction := get_transaction()) is not None:
            transaction.write_on_commit = False
        return unavailable(str(error))


def place_of(
    settings: Settings, lat: float | None, lon: float | None, timezone: str | None, unit: str
) -> open_meteo.Place:
    """Return the place of the settings, but for what is given; raises `FlowInputError` if that cannot be used."""
    latitude = settings.weather_latitude if lat is None else lat
    longitude = settings.weather_longitude if lon is None else lon
    name = settings.weather_place if lat is None and lon is None else ""
    zone = settings.timezone if timezone is None else timezone
    return open_meteo.checked_place(latitude, longitude, zone, unit, name)


@task(name="format_weather", cache_policy=NO_CACHE)
async def format_weather(weather: dict[str, Any]) -> str:
    """Return the weather as the lines of a summary."""
    known, hours = len(open_meteo.known(weather)), len(weather["hours"])
    part = "" if known == hours else f" (of {known} of {hours} hours)"
    statistics = open_meteo.statistics(weather)
    values = {
        **({"place": one_line(weather["name"])} if weather["name"] else {}),
        "latitude": f"{weather['latitude']:g}",
        "longitude": f"{weather['longitude']:g}",
        "timezone": weather["timezone"],
        "date": weather["date"],
        **{f"{name} temperature": f"{value:.1f} {weather['symbol']}{part}" for name, value in statistics.items()},
        "sunrise": weather["sunrise"] or "none that day",
        "sunset": weather["sunset"] or "none that day",
        "source": f"Open-Meteo, {weather['source']}",
    }
    return "\n".join(f"{name + ':':<18}{value}" for name, value in values.items())


class Question:
    """A question about the weather of a day, to Open-Meteo or to Prefect's cache of its answers."""

    def __init__(self, place: open_meteo.Place, day: datetime.date, settings: Settings) -> None:
        self._place = place
        self._day = day
        archived = open_meteo.is_archived(day, datetime.datetime.now(place.zone).date())
        self._source = settings.weather_archive_url if archived else settings.weather_forecast_url
        self._ask = get_weather if archived else get_weather.with_options(cache_expiration=_FORECAST_KEPT)
        name = "weather-archive" if archived else "weather-forecast"
        self._record = ServiceRecord(name, self._source, settings.state_directory)
        self._timeout_s = settings.weather_timeout_s
        self._patience = Patience()
        self._waits = self._record.worth_waiting_for

    def hurry(self) -> None:
        """Have an answer at once, if the service is known to be away: there is nothing else to wait for."""
        if not self._waits:
            self._patience.end()

    async def answer(self) -> dict[str, Any] | str:
        """Return the weather, or the reason why there is none."""
        # Prefect's overloads take an asynchronous task that returns its state for a plain one.
        state: State[Any] = await self._ask(  # pyright: ignore[reportGeneralTypeIssues]
            **asdict(self._place),
            date=self._day.isoformat(),
            source=self._source,
            record=self._record,
            timeout_s=self._timeout_s,
            patience=self._patience,
            return_state=True,
        )
        if state.is_completed() and not is_unavailable(state):
            return await state.aresult()
        return state.message or "the weather service failed"


def write_temperatures(catalog: Catalog, run: RunData, weather: dict[str, Any], maker: MadeBy | None = None) -> str:
    """Write the temperatures of a run's day to Tiled beside the run, in place of earlier ones; return their path there.

    The metadata hold what a person (or a search) wants to know about them, and the flow run that makes them.
    """
    metadata = {
        "quantity": "temperature_2m",
        "place": {name: weather[name] for name in ("name", "latitude", "longitude", "timezone") if weather[name] != ""},
        "date": weather["date"],
        "unit": weather["unit"],
        **open_meteo.statistics(weather),
        "sunrise": weather["sunrise"],
        "sunset": weather["sunset"],
        "source_url": weather["source"],
    }
    table = {"time": weather["hours"], "temperature_2m": weather["temperatures"]}
    return write_result(catalog, run, _RESULT, table, metadata, maker)


def temperatures_path(settings: Settings, run: RunData) -> str:
    """Return the path in Tiled that they are written to."""
    return f"{settings.processed_container.strip('/')}/{result_key(run, _RESULT)}"
