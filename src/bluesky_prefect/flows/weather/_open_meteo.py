"""Requests to Open-Meteo, and the meaning of its answers."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo

from bluesky_prefect.core import FlowInputError, ServiceUnavailable, is_number, one_line
from bluesky_prefect.flows.common._service_record import QuestionRefused

TemperatureUnit = Literal["fahrenheit", "celsius"]

# The archive API has complete days after this many days; see open-meteo.com/en/docs/historical-weather-api.
ARCHIVE_AFTER_DAYS = 5
_SYMBOLS = {"fahrenheit": "°F", "celsius": "°C"}


@dataclass(frozen=True)
class Place:
    """A place in degrees, north and east positive, with its time zone, the unit of its temperatures, and its name."""

    latitude: float
    longitude: float
    timezone: str
    unit: TemperatureUnit
    name: str = ""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.timezone)


def checked_place(lat: float, lon: float, timezone: str, unit: str, name: str = "") -> Place:
    """Return a place, or raise `FlowInputError` with what is wrong with it."""
    for angle, value, most in (("lat", lat, 90), ("lon", lon, 180)):
        if not is_number(value) or abs(value) > most:
            raise FlowInputError(f"{angle} must be a number of degrees from -{most} to {most}, not {value!r}.")
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, TypeError, OSError):
        raise FlowInputError(
            f"There is no time zone {one_line(timezone, 60)!r}: give a name such as 'America/New_York' or 'UTC'."
        ) from None
    if unit not in _SYMBOLS:
        raise FlowInputError(f"temperature_unit must be 'fahrenheit' or 'celsius', not {one_line(unit, 60)!r}.")
    return Place(float(lat), float(lon), timezone, unit, name)  # pyright: ignore[reportArgumentType]  (checked above)


def checked_date(date: Any) -> datetime.date:
    """Return a date given as ``YYYY-MM-DD``; raise `FlowInputError` if it is not."""
    try:
        return datetime.datetime.strptime(date.strip(), "%Y-%m-%d").date()
    except (ValueError, AttributeError):
        raise FlowInputError(
            f"{one_line(str(date), 60)!r} is not a date: write it as YYYY-MM-DD, for instance 2026-05-01."
        ) from None


def is_archived(day: datetime.date, today: datetime.date) -> bool:
    """Say whether the archive API is the one to ask about a day."""
    return (today - day).days > ARCHIVE_AFTER_DAYS


def query(place: Place, day: datetime.date) -> dict[str, Any]:
    """Return what both of Open-Meteo's APIs are asked."""
    return {
        "latitude": place.latitude,
        "longitude": place.longitude,
        "start_date": day.isoformat(),
        "end_date": day.isoformat(),
        "hourly": "temperature_2m",
        "daily": "sunrise,sunset",
        "timezone": place.timezone,
        "temperature_unit": place.unit,
    }


def parse(answer: Any, place: Place, day: datetime.date, source: str) -> dict[str, Any]:
    """Return the weather of a day as plain data.

    Returns
    -------
    dict
        ``hours`` (local times, ISO 8601) and ``temperatures`` (numbers or None) of the same length; ``sunrise`` and
        ``sunset`` (local times or None); ``latitude``, ``longitude``, ``timezone``, ``name``, ``date``, ``unit``,
        ``symbol``, ``source``.

    Raises
    ------
    QuestionRefused
        If it holds no temperature of that day.
    ServiceUnavailable
        If the answer is not what the service documents.
    """
    symbol = _SYMBOLS[place.unit]
    try:
        stated = answer["hourly_units"]["temperature_2m"]
        hours, temperatures = (list(answer["hourly"][name]) for name in ("time", "temperature_2m"))
        sunrise, sunset = (answer["daily"][name][0] for name in ("sunrise", "sunset"))
    except (KeyError, TypeError, IndexError) as error:
        raise ServiceUnavailable(f"the weather service's answer is not understood ({error!r} missing)") from error
    if stated != symbol:
        raise ServiceUnavailable(f"the weather service answered in {one_line(stated, 20)}, not {symbol}")
    if len(hours) != len(temperatures) or not all(_is_of(day, hour) for hour in hours):
        raise ServiceUnavailable(f"the weather service's answer is not about the hours of {day}")
    temperatures = [float(value) if is_number(value) else None for value in temperatures]
    if not any(value is not None for value in temperatures):
        raise QuestionRefused(f"the weather service has no temperatures for {day}")
    return {
        **asdict(place),
        "date": day.isoformat(),
        "symbol": symbol,
        "source": source,
        "hours": hours,
        "temperatures": temperatures,
        "sunrise": sunrise if _is_of(day, sunrise) else None,
        "sunset": sunset if _is_of(day, sunset) else None,
    }


def known(weather: Mapping[str, Any]) -> list[float]:
    """Return the temperatures of the hours that have one."""
    return [value for value in weather["temperatures"] if value is not None]


def statistics(weather: Mapping[str, Any]) -> dict[str, float]:
    """Return the lowest, the highest and the mean temperature."""
    temperatures = known(weather)
    return {"min": min(temperatures), "max": max(temperatures), "mean": sum(temperatures) / len(temperatures)}


def _is_of(day: datetime.date, moment: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(moment).date() == day
    except (TypeError, ValueError):
        return False
