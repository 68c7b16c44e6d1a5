"""Results in Tiled, beside the runs they were made from."""

import datetime
from typing import TYPE_CHECKING, Any

import tenacity

from bluesky_prefect._version import __version__
from bluesky_prefect.core import one_line
from bluesky_prefect.tiled_api._catalog import Catalog
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._run_data import plain

if TYPE_CHECKING:
    from tiled.client.container import Container

_TRIES = 8
# The quantity that a peak's entry names.
PEAK = "peak"


def write_peak(catalog: Catalog, run: dict[str, Any], peak: dict[str, Any], table: dict[str, Any]) -> str:
    """Write the peak that a run shows, with the points it was found in; return its path in Tiled.

    One that the run already has is replaced. For `run` see `origin_of`.
    """
    return write_table(catalog, f"peak-{run['uid']}", table, {**origin_of(run), "quantity": PEAK, **peak})


def write_table(catalog: Catalog, key: str, table: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Write a table beside the runs and return its path in Tiled; one of the same key is replaced.

    A fixed key per run keeps results from piling up, and makes a second try after a crash find what the first one left.
    """
    container = catalog.processed()
    with tiled_errors(catalog.name):
        _replace(container, key, table, metadata)
    return "/".join([*container.path_parts, key])


def results_of(catalog: Catalog, run_uid: str) -> dict[str, dict[str, Any]]:
    """Return what any flow has written to Tiled about a run: paths there, and the metadata of each."""
    return {"/".join(node.path_parts): plain(node.metadata) for node in catalog.processed_by_uid(run_uid)}


def origin_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that say which run a result was made from (``uid``, ``scan_id``, ``plan_name``), and how."""
    return {
        "raw_uid": run["uid"],
        "scan_id": run["scan_id"],
        "plan_name": one_line(run["plan_name"], 200),
        "software": {"name": "bluesky-prefect", "version": __version__},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _is_conflict(error: BaseException) -> bool:
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in {404, 409}


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_conflict),
    stop=tenacity.stop_after_attempt(_TRIES),
    wait=tenacity.wait_random(0.05, 0.5),
    reraise=True,
)
def _replace(container: "Container", key: str, table: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write a table in place of what is there.

    Somebody who exports the same run at the same moment may make the table first, or take this one away before it
    is filled. Both then begin again, at different times.
    """
    if key in container:
        container.delete_contents(key, external_only=False)
    container.write_table(table, key=key, metadata=metadata)
