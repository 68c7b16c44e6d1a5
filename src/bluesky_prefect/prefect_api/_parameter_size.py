"""Size of a flow run's parameters, of which Prefect's server takes so much and no more."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from bluesky_prefect.core import MORE_KEYS, ROUTING_KEYS, Submission

# PREFECT_SERVER_API_MAX_PARAMETER_SIZE of Prefect's server, in bytes of JSON: the default of Prefect 3.
SERVER_LIMIT = 524_288
# A deployment's own parameters join them when a flow run is started again.
MAX_BYTES = 500_000
_SETTING = "PREFECT_SERVER_API_MAX_PARAMETER_SIZE"


def shrink(parameters: dict[str, Any], names: Iterable[str]) -> None:
    """Make parameters fit that are larger than Prefect takes: the largest values of documents give way to a text.

    They are changed in place, and only those of these names: they come from the run's documents, which Tiled has. Keys
    of documents stay, and so does all that is small. If that is not enough, a document keeps the keys that runs are
    routed by.
    """
    excess = _size(parameters) - MAX_BYTES if _may_exceed(parameters) else 0
    if excess <= 0:
        return
    names = list(names)
    places = sorted(((_size(at[key]), number, at, key) for number, (at, key) in enumerate(_places(parameters, names))))
    while places and excess > 0:
        size, _, at, key = places.pop()
        text = f"<{type(at[key]).__name__} of {size} bytes left out: Prefect takes {SERVER_LIMIT} in all; Tiled has it>"
        if size > _size(text):
            excess -= size - _size(text)
            at[key] = text
    if excess > 0:
        parameters.update((name, _routing(parameters[name])) for name in names if isinstance(parameters[name], dict))


def explained_size(submission: Submission) -> str:
    """Return what to do about given parameters that are too large for Prefect; an empty text if they are not."""
    given = {**(submission.parameters or {}), **submission.overrides}
    total = _size(given)
    if total <= SERVER_LIMIT:
        return ""
    size, name = max((_size(value), name) for name, value in given.items())
    return (
        f" The parameters have {total} bytes, of which {name!r} has {size}; Prefect's server takes {SERVER_LIMIT}, "
        f"unless {_SETTING} there says otherwise. Give less in the workflow's parameters=: the flow can read a run's "
        "data from Tiled by its uid."
    )


def _places(parameters: dict[str, Any], names: Iterable[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where there is something that may be replaced."""
    for name in names:
        if isinstance(parameters[name], dict):
            yield from ((parameters[name], key) for key in parameters[name])
        elif isinstance(parameters[name], str):
            yield parameters, name


def _may_exceed(parameters: Mapping[str, Any]) -> bool:
    # Quickly: Prefect's JSON is ASCII, in which a character takes up to three times the bytes that it takes here.
    return 3 * len(orjson.dumps(parameters)) > MAX_BYTES


def _size(value: Any) -> int:
    """Return a size in bytes as Prefect's server measures it: that of compact ASCII JSON."""
    return len(json.dumps(value, separators=(",", ":")))


def _routing(doc: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: doc[key] for key in ROUTING_KEYS if key in doc}
    return {**kept, MORE_KEYS: f"<keys left out: Prefect takes {SERVER_LIMIT} bytes in all; Tiled has them>"}
