"""Documents made to fit Tiled."""

import re
from collections.abc import Callable
from contextlib import suppress
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
    """Return the document as it is if Tiled can send it and its database takes it; else with escapes, or as plain JSON.

    Plain JSON has no long arrays.
    """
    if _fits(doc):
        return doc
    with suppress(RecursionError):
        if _fits(escaped := _with_escapes(doc)):
            return escaped
    return jsonable(doc)


def _fits(doc: Any) -> bool:
    from tiled.utils import safe_json_dump

    try:
        return not _NUL.search(safe_json_dump(doc))
    except (TypeError, ValueError, RecursionError):  # an object, half a character: somebody typed it
        return False


def _with_escapes(value: Any) -> Any:
    """Return a value with all texts as they can be sent, and what is no text as it is."""
    if type(value) is dict:
        return {_with_escapes(key): _with_escapes(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return [_with_escapes(one) for one in value]
    return jsonable(value) if isinstance(value, str) else value


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
