"""Results in Tiled by the version of this package that made them; the server looks for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import FlowInputError, Run
from bluesky_prefect.tiled_api._catalog import Catalog
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._stored_runs import runs_with_uids

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

_VERSION = "software.version"
_DEPLOYMENT = "made_by.deployment"


@dataclass(frozen=True)
class ResultsOfVersions:
    """Results of a workflow that some versions made.

    Attributes
    ----------
    versions : dict
        How many results each of the versions made.
    runs : list of Run
        The runs that the results were made from, as far as Tiled has them; the one written last comes first.
    """

    versions: dict[str, int]
    runs: list[Run]


def parse_versions(text: str) -> "SpecifierSet":
    """Return which versions are meant by text such as ``<0.2`` or ``==0.1.0``; raises `FlowInputError`."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        meant = SpecifierSet(text, prereleases=True)
    except InvalidSpecifier:
        meant = SpecifierSet()
    if not len(meant):
        raise FlowInputError(
            f"{text!r} does not say which versions are meant: write '<0.2' for those before 0.2, or '==0.1.0'."
        )
    return meant


def versions_of_results(catalog: Catalog) -> dict[str, int]:
    """Return how many results in Tiled each version has made.

    Raises
    ------
    TiledUnavailable
        If Tiled cannot be asked.
    """
    return _counts(catalog, _results(catalog), _VERSION) if catalog.has_processed() else {}


def results_made_by(catalog: Catalog, versions: Iterable[str], deployments: Iterable[str]) -> ResultsOfVersions:
    """Return the results of deployments that these versions have made, and their runs.

    A result that does not say which deployment made it may be of any.

    Raises
    ------
    TiledUnavailable
        If Tiled cannot be asked.
    """
    from tiled.queries import In, KeyPresent

    made = _results(catalog).search(In(_VERSION, list(versions)))
    counts: dict[str, int] = {}
    uids: dict[str, None] = {}
    for found in (made.search(In(_DEPLOYMENT, list(deployments))), made.search(KeyPresent(_DEPLOYMENT, exists=False))):
        for version, many in _counts(catalog, found, _VERSION).items():
            counts[version] = counts.get(version, 0) + many
        uids |= dict.fromkeys(_counts(catalog, found, "raw_uid"))
    return ResultsOfVersions(counts, list(runs_with_uids(catalog, uids)))


def _results(catalog: Catalog) -> Any:
    from tiled.queries import Eq

    return catalog.processed().search(Eq("software.name", "bluesky-prefect"))


def _counts(catalog: Catalog, container: Any, key: str) -> dict[str, int]:
    with tiled_errors(catalog.name):
        found = container.distinct(key, counts=True)["metadata"][key]
    return {one["value"]: one["count"] for one in found if isinstance(one["value"], str)}
