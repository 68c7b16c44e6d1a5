"""Tiled: the server, what its key may do, the containers, and the files of detectors that it has to read."""

from typing import Any

from bluesky_prefect.cli.check._finding import Findings
from bluesky_prefect.cli.check._places import Places
from bluesky_prefect.cli.check._servers import answers, versions
from bluesky_prefect.core import BlueskyPrefectError, ConfigurationError, RunNotFound, one_line
from bluesky_prefect.tiled_api import (
    SERVER_TROUBLE,
    Catalog,
    ExternalArray,
    ReadableStorage,
    TiledAccess,
    external_arrays,
    read_one_value,
    readable_storage,
    spec_problem,
    tiled_errors,
)

# So many runs, the newest first, are searched for one with files of a detector.
_RUNS = 3


def look_at_tiled(places: Places) -> Findings:
    """Ask Tiled's server: does it answer, take the key, and have the containers; can it read detectors' files."""
    findings = Findings("tiled")
    if not answers(findings, "Tiled", places.tiled):
        return findings
    name = "key"
    try:
        with Catalog.connect(places.settings) as catalog:
            access = TiledAccess.of(catalog)
            name = "answer"
            _note_key(findings, access)
            versions(findings, "tiled", access.server_version)
            with tiled_errors(catalog.name):
                _look_at_raw(findings, catalog, readable_storage(places.settings))
                _look_at_processed(findings, catalog, places.settings.processed_container)
    except BlueskyPrefectError as error:
        findings.problem(name, str(error))
    return findings


def _note_key(findings: Findings, access: TiledAccess) -> None:
    lacking = access.problem()
    if access.stops_flows:
        findings.problem("key", lacking)
    elif lacking:
        findings.warning("key", lacking, "flows need them to replace a result, the courier where detectors write files")
    else:
        findings.ok("key", "the server lets this user read runs, and write runs, results and references to files")


def _look_at_raw(findings: Findings, catalog: Catalog, storage: ReadableStorage | None) -> None:
    try:
        raw = catalog.raw
    except ConfigurationError as error:
        findings.problem("raw", str(error), "bluesky-prefect make-catalog")
        return
    path = "/".join(raw.path_parts) or "/"
    if lacking := spec_problem(raw, catalog.name):
        findings.problem("raw", lacking)  # what it holds may be no runs
        return
    findings.ok("raw", f"the catalog {path!r} is there, with its spec; it holds {len(raw)} runs")
    _look_at_files(findings, catalog, storage)


def _look_at_processed(findings: Findings, catalog: Catalog, path: str) -> None:
    if catalog.has_processed():
        findings.ok("processed", f"the container of results, {path!r}, is there")
    else:
        findings.ok("processed", f"the container of results, {path!r}, is made with the first result")


def _look_at_files(findings: Findings, catalog: Catalog, storage: ReadableStorage | None) -> None:
    """Have Tiled read one value of the newest array that a detector has written to files."""
    for number in range(1, _RUNS + 1):
        try:
            run = catalog.find(-number)
        except RunNotFound:
            break
        for array in external_arrays(run):
            _read(findings, array, run.item["id"], storage)
            return
    findings.ok("files", f"none of the {_RUNS} newest runs has files of a detector, so nothing is known of these")


def _read(findings: Findings, array: tuple[ExternalArray, Any], run_uid: str, storage: ReadableStorage | None) -> None:
    import httpx

    description, node = array
    where = one_line(", ".join(description.files[:2]), 300)
    what = f"{description.key} of run {one_line(run_uid)[:8]} ({where})"
    if storage and (refusal := storage.refusal(description.files)):
        findings.problem("files", f"Tiled cannot read {what}", one_line(refusal))
        return
    try:
        read_one_value(node)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in SERVER_TROUBLE:
            findings.warning("files", f"Tiled did not say whether it can read {what}", "try again")
            return
        remedy = (
            "see that they are there and that the user of Tiled's server may read them"
            if storage
            else "name their folder under readable_storage of Tiled's server, and let its user read them"
        )
        findings.problem("files", f"Tiled cannot read {what}: {error.response.status_code}", remedy)
    else:
        findings.ok("files", f"Tiled reads {what}")
