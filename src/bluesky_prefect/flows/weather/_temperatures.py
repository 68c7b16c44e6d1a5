"""The temperatures of a run's day, in Tiled beside the run."""

from typing import Any

from bluesky_prefect.flows.weather import _open_meteo as open_meteo
from bluesky_prefect.tiled_api import Catalog, origin_of, write_table


def metadata_of(run: dict[str, Any], weather: dict[str, Any]) -> dict[str, Any]:
    """Return what a person (or a search) wants to know about the temperatures of a run's day.

    Parameters
    ----------
    run : dict
        ``uid``, ``scan_id`` and ``plan_name`` of the run.
    weather : dict
        See `open_meteo.parse`.
    """
    temperatures = open_meteo.known(weather)
    return {
        **origin_of(run),
        "quantity": "temperature_2m",
        "place": {name: weather[name] for name in ("latitude", "longitude", "timezone")},
        "date": weather["date"],
        "unit": weather["unit"],
        "min": min(temperatures),
        "max": max(temperatures),
        "mean": sum(temperatures) / len(temperatures),
        "sunrise": weather["sunrise"],
        "sunset": weather["sunset"],
        "source_url": weather["source"],
    }


def write_temperatures(catalog: Catalog, metadata: dict[str, Any], weather: dict[str, Any]) -> str:
    """Write a table of hourly temperatures; one that the same run already has is replaced.

    Returns
    -------
    str
        Path of the table in Tiled.
    """
    table = {"time": weather["hours"], "temperature_2m": weather["temperatures"]}
    return write_table(catalog, f"temperature-{metadata['raw_uid']}", table, metadata)
