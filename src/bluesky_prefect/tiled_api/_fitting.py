"""Documents made to fit Tiled."""

import re
from collections.abc import Callable
from typing import Any

from bluesky_prefect.core import jsonable

# PostgreSQL refuses it in any text, DuckDB in the names of columns. This is how JSON writes it; after an even number of
# backslashes only, or it is the text of six characters.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def patches() -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return what `TiledWriter` needs so that it takes documents of any content."""
    whole = dict.fromkeys(("start", "descriptor", "stop"), _fit_tiled)
    return {**whole, "event": _fit_event, "stream_resource": _fit_stream_resource}


def _fit_tiled(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the document as it is, or as plain JSON if Tiled could not send it or its database would refuse it."""
    from tiled.utils import safe_json_dump

    try:
        fits = not _NUL.search(safe_json_dump(doc))
    except (TypeError, ValueError, RecursionError):  # an object, half a character: somebody typed it
        fits = False
    return doc if fits else jsonable(doc)


def _fit_event(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the event with its data under the names that `_fit_tiled` gives them in the descriptor.

    Under others `TiledWriter` would leave them out without a word.
    """
    if all(jsonable(key) == key for key in doc["data"]):
        return doc
    by_key = (name for name in ("data", "timestamps", "filled") if name in doc)
    return {**doc, **{name: {jsonable(key): value for key, value in doc[name].items()} for name in by_key}}


def _fit_stream_resource(doc: dict[str, Any]) -> dict[str, Any]:
    return {**doc, "data_key": jsonable(doc["data_key"])} if "data_key" in doc else doc
