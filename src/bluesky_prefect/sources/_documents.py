"""Documents in messages: what they hold is data, and never code."""

import json
from collections.abc import Callable
from typing import Any, Literal

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import one_line
from bluesky_prefect.journal import unpack
from bluesky_prefect.sources._pickles import read_pickle

Format = Literal["pickle", "msgpack", "json"]

# The documents that a `PrefectCallback` does something with.
_HANDLED = frozenset({"start", "resource", "stream_resource", "stop"})
# Where these name their run.
_RUN_IN = {"start": "uid", "stop": "run_start"}


def read_document(content: bytes, form: Format) -> Any:
    """Return what a message holds; raises anything if that is no data of this form."""
    return _READERS[form](content)


def read_pair(content: bytes) -> tuple[str, dict[str, Any]]:
    """Return the name and the document that a msgpack message holds; raises anything if it holds no such pair."""
    pair = read_document(content, "msgpack")
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TypeError(f"it holds {type(pair).__name__}, not a name and a document")
    return _checked(*pair)


def hand_over(callback: PrefectCallback, name: Any, doc: Any) -> None:
    """Have a callback take a document; raises anything if it cannot be used.

    A document that names no run would start workflows on one that nobody has measured.
    """
    _checked(name, doc)
    if is_handled(name):
        getattr(callback, name)(doc)


def is_handled(name: str) -> bool:
    """Return whether a callback does something with documents of this name; the others need not be read."""
    return name in _HANDLED


def _checked(name: Any, doc: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(name, str):
        raise TypeError(f"it holds {type(name).__name__} in the place of a document's name")
    if not isinstance(doc, dict):
        raise TypeError(f"it holds {type(doc).__name__} in the place of a {one_line(name, 50)} document")
    field = _RUN_IN.get(name)
    if field and not (isinstance(doc.get(field), str) and doc[field]):
        raise ValueError(f"its {name} document names no run: it has no text in {field!r}")
    return name, doc


_READERS: dict[str, Callable[[bytes], Any]] = {"pickle": read_pickle, "msgpack": unpack, "json": json.loads}
