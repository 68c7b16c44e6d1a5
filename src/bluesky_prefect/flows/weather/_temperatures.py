"""The temperatures of a run's day, in Tiled beside the run."""

from typing import Any

from bluesky_prefect.flows.weather import _open_meteo as open_meteo
from bluesky_prefect.tiled_api import Catalog, origin_of, write_table


def metadata_of(run: dict[str, Any], weather: dict[str, Any]) -> dict[str, Any]:
    """Return what a person (or a search) wants to know about the temperatures of a run's day."""
    return {
        **origin_of(run),
        "quantity": "temperature_2m",
        "place": {name: weather[name] for name in ("latitude", "longitude", "timezone")},
        "date": weather["date"],
        "unit": weather["unit"],
        **open_meteo.statistics(weather),
        "sunrise": weather["sunrise"],
        "sunset": weather["sunset"],
        "source_url": weather["source"],
    }


def write_temperatures(catalog: Catalog, metadata: dict[str, Any], weather: dict[str, Any]) -> str:
    """Write a table of hourly temperatures in place of an earlier one of the same run; return its path in Tiled."""
    table = {"time": weather["hours"], "temperature_2m": weather["temperatures"]}
    return write_table(catalog, f"temperature-{metadata['raw_uid']}", table, metadata)
