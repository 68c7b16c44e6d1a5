"""Results in Tiled, beside the runs they were made from."""

import datetime
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenacity

from bluesky_prefect._version import __version__
from bluesky_prefect.core import FlowInputError, MadeBy, error_line, jsonable, one_line
from bluesky_prefect.tiled_api._catalog import Catalog
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._raw_catalog import inherited
from bluesky_prefect.tiled_api._run_data import RunData
from bluesky_prefect.tiled_api._run_reader import plain

if TYPE_CHECKING:
    from tiled.client.container import Container

_TRIES = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_ORIGIN = ("raw_uid", "scan_id", "plan_name", "software", "created", "made_by")
# What facilities write into start documents, NSLS-II's names; a result may have its own.
_PROPOSAL = ("proposal", "cycle", "data_session")


def write_result(
    catalog: Catalog,
    run: RunData,
    name: str,
    value: Any,
    metadata: Mapping[str, Any],
    made_by: MadeBy | None = None,
) -> str:
    """Write what was made from a run to Tiled, in place of an earlier result of that name; return its path there.

    The parameters, and the errors, are those of `bluesky_prefect.flows.write_result`; the metadata tell of the flow run
    that it was made by. A key of the run and the name keeps results from piling up, and makes a second try after a
    crash find what the first one left.
    """
    if not _NAME.fullmatch(name):
        raise FlowInputError(
            f"A result cannot be called {one_line(name, 60)!r}: use letters, digits, '-', '_' and '.', at most 100."
        )
    if taken := sorted(metadata.keys() & set(_ORIGIN)):
        raise FlowInputError(f"The result {name!r} cannot have metadata {', '.join(taken)}: they say where it is from.")
    method, content, told = _writable(name, value)
    key = result_key(run, name)
    about = {**_origin_of(run, made_by), "quantity": name, **told, **metadata}
    container = catalog.processed()
    write = partial(
        getattr(container, method), content, key=key, metadata=jsonable(about), access_tags=inherited(run.access_tags)
    )
    with tiled_errors(catalog.name):
        _replace(container, key, write)
    return "/".join([*container.path_parts, key])


def result_key(run: RunData, name: str) -> str:
    """Return the key of a result among those of all runs."""
    return f"{name}-{run.uid}"


def results_of(catalog: Catalog, run_uid: str) -> dict[str, dict[str, Any]]:
    """Return what any flow has written to Tiled about a run: paths there, and the metadata of each."""
    return {"/".join(node.path_parts): plain(node.metadata) for node in catalog.processed_by_uid(run_uid)}


def _origin_of(run: RunData, made_by: MadeBy | None) -> dict[str, Any]:
    """Return the metadata that say which run a result was made from, and how."""
    start: Any = run.start  # with what event-model's schema does not know
    return {
        "raw_uid": run.uid,
        "scan_id": run.start.get("scan_id"),
        "plan_name": one_line(run.start.get("plan_name", ""), 200),
        "software": {"name": "bluesky-prefect", "version": __version__},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **({} if made_by is None else {"made_by": made_by.model_dump(exclude_none=True)}),
        **{name: start[name] for name in _PROPOSAL if start.get(name) is not None},
    }


def _writable(name: str, value: Any) -> tuple[str, Any, dict[str, Any]]:
    """Return the method of Tiled's container that writes a value, what it is given, and what is to be told of it."""
    import numpy

    if isinstance(value, Path):
        return "write_array", numpy.frombuffer(_content(name, value), numpy.uint8), {"file": value.name}
    try:
        if isinstance(value, Mapping) or hasattr(value, "columns"):
            return "write_table", _table(value), {}
        array = numpy.asarray(value)
    except (ValueError, TypeError) as error:
        raise FlowInputError(f"The result {name!r} cannot be written: {error_line(error)}") from error
    if array.dtype.kind not in "biufcmM":
        raise FlowInputError(
            f"The result {name!r} is a {type(value).__name__} that Tiled takes neither as numbers nor as a table: give "
            "an array, a table (a DataFrame, or a dictionary of columns), or the Path of a file."
        )
    return "write_array", array, {}


def _content(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FlowInputError(f"The result {name!r} cannot be read from {path}: {error.strerror}.") from error


def _table(value: Any) -> dict[str, Any]:
    """Return a table as columns by name, in Arrow's types."""
    import pyarrow

    if isinstance(value, Mapping):
        table = pyarrow.table({str(column): list(values) for column, values in value.items()})
    elif isinstance(value, pyarrow.Table):
        table = value
    else:
        # The names of the rows would be lost: numbers from zero say nothing.
        framed = value if list(value.index) == list(range(len(value))) else value.reset_index()
        table = pyarrow.Table.from_pandas(framed.rename(columns=str), preserve_index=False)
    return dict(zip(table.column_names, table.columns, strict=True))


def _is_conflict(error: BaseException) -> bool:
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in {404, 409}


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_conflict),
    stop=tenacity.stop_after_attempt(_TRIES),
    wait=tenacity.wait_random(0.05, 0.5),
    reraise=True,
)
def _replace(container: "Container", key: str, write: "partial[Any]") -> None:
    """Write in place of what is there, a moment after that is gone.

    Somebody who does the same for the same run at the same moment may make the entry first, or take this one away
    before it is filled. Both then begin again, at different times.
    """
    if key in container:
        container.delete_contents(key, external_only=False)
    write()
