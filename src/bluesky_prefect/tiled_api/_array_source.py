"""Files of detectors that hold arrays, and the place of an array in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bluesky_prefect.tiled_api._connect import tiled_errors

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api._catalog import Catalog
    from bluesky_prefect.tiled_api._run_data import RunData


@dataclass(frozen=True)
class ArraySource:
    """Files of a detector that hold an array, one after the other.

    Parameters
    ----------
    mimetype : str
        Kind of the files.
    paths : list of str
        Where they are, for the one who wrote them.
    parameters : Mapping
        What Tiled gives to whatever reads them; of HDF5 files, ``dataset`` is the array's path in each.
    """

    mimetype: str
    paths: list[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def array_sources(catalog: "Catalog", run: "RunData") -> dict[str, list[ArraySource]]:
    """Return for each array of a run that is in files of detectors where these are, by the array's path in Tiled."""
    arrays = [array for stream in run.streams for array in stream.arrays if array.files]
    with tiled_errors(catalog.name):
        return {array.path: _sources(catalog.at(array.path)) for array in arrays}


def _sources(node: Any) -> list[ArraySource]:
    return [
        ArraySource(source.mimetype, [_path(asset.data_uri) for asset in source.assets], dict(source.parameters or {}))
        for source in node.data_sources() or []
        if source.management == "external"
    ]


def _path(uri: str) -> str:
    """Return the path that an address names, as Tiled takes it: percent signs stay; an odd address, as it is."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    return parts.path if parts.scheme == "file" else uri
