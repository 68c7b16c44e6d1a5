"""Results in Tiled, beside the runs they were made from."""

import datetime
from typing import TYPE_CHECKING, Any

from bluesky_prefect._version import __version__
from bluesky_prefect.flows import open_meteo
from bluesky_prefect.flows.catalog import Catalog, explained
from bluesky_prefect.flows.texts import one_line

if TYPE_CHECKING:
    from tiled.client.container import Container

_TRIES = 3


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
        "raw_uid": run["uid"],
        "scan_id": run["scan_id"],
        "plan_name": one_line(run["plan_name"], 200),
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
        "software": {"name": "bluesky-prefect", "version": __version__},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_temperatures(catalog: Catalog, metadata: dict[str, Any], weather: dict[str, Any]) -> str:
    """Write a table of hourly temperatures; one that the same run already has is replaced.

    A fixed name per run keeps results from piling up, and makes a second try after a crash find what the first one
    left.

    Returns
    -------
    str
        Path of the table in Tiled.
    """
    container = catalog.processed
    key = f"temperature-{metadata['raw_uid']}"
    table = {"time": weather["hours"], "temperature_2m": weather["temperatures"]}
    with explained(catalog.name):
        _replace(container, key, table, metadata)
    return "/".join([*container.path_parts, key])


def _replace(container: "Container", key: str, table: dict[str, Any], metadata: dict[str, Any]) -> None:
    from tiled.client.utils import ClientError

    for left in reversed(range(_TRIES)):
        if key in container:
            try:
                container.delete_contents(key, external_only=False)
            except ClientError as error:
                if error.response.status_code != 404:  # somebody else was faster
                    raise
        try:
            container.write_table(table, key=key, metadata=metadata)
        except ClientError as error:
            if error.response.status_code != 409 or not left:  # the same run is being exported twice at once
                raise
        else:
            return
