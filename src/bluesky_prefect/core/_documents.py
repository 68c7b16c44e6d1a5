"""Documents as JSON, whatever they hold."""

import hashlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core._conversion import Conversion
from bluesky_prefect.core._selection import Selection
from bluesky_prefect.core._text import one_line

if TYPE_CHECKING:
    from event_model import RunStart, RunStop

logger = logging.getLogger(__name__)

# Objects that refer to one another in a few steps can unfold to billions of values, a string that is referred to often
# to gigabytes of text; the callback stops well before.
MAX_VALUES = 50_000
MAX_CHARACTERS = 10_000_000
# The RunEngine waits for both: the walk through all of a document, and the choice of what is kept if that is too large.
MAX_SECONDS = 0.3
# PostgreSQL indexes keys of some 2,700 bytes at most.
_MAX_UID_LENGTH = 200


def jsonable(value: Any) -> Any:
    """Return `value` made of nothing but dict, list, str, int, float, bool and None.

    Numpy scalars and arrays become numbers and lists; dates become ISO 8601 strings; sets and sequences
    become lists. What JSON cannot hold (NaN, infinities, integers beyond 64 bits, bytes, other objects) is replaced by
    its ``repr``, cut at `MAX_REPR_LENGTH` characters, arrays of more than `MAX_ARRAY_SIZE` elements by their type and
    shape. What contains itself or is nested beyond `MAX_DEPTH` is left out, and a text in its place says so. NUL
    characters and lone surrogates in strings, which PostgreSQL refuses, are written as escapes.

    All together is at most `MAX_VALUES` values and `MAX_CHARACTERS` characters. What comes after them is left out. A
    mapping, though, keeps its keys, its numbers and its short texts: of the rest, the largest values are replaced by a
    text that says so, each as a whole (a mapping, by what is left of it by the same rule).

    Objects of other kinds than JSON's, numpy's scalars and Python's own containers are read until `MAX_SECONDS` have
    passed. The rest of them is left out by the same rule, within as much time again.

    Never raises an `Exception`, and shares no mutable object with `value`. Time and memory are bounded, but for what
    methods of a single such object take, which is their own.
    """
    return _shortened(value)[0]


def convert_document(doc: "RunStart | RunStop", *, clock: Callable[[], float] = time.perf_counter) -> Any:
    """Return a start or stop document as `jsonable` does; a WARNING names what is left out of it."""
    converted, missing = _shortened(doc, clock)
    if missing:
        logger.warning(
            "Run %s: Prefect does not get all of its %s document: beyond %d values, %d characters or %s seconds, the "
            "largest are left out, here %s. All of it is in Tiled.",
            uid_text(converted.get("run_start") or converted.get("uid")),
            "stop" if "run_start" in converted else "start",
            MAX_VALUES,
            MAX_CHARACTERS,
            MAX_SECONDS,
            one_line(", ".join(missing)),
        )
    return converted


def uid_text(value: Any) -> str:
    """Return a run's uid as the text that the run is known by from then on: one printable line.

    A uid as Bluesky makes it stays what it is. What a document holds in its place becomes text by `jsonable`, with
    escapes for what would break a line; a long one ends in a digest. Never raises an `Exception`.
    """
    text = str(jsonable(value))
    line = one_line(text[: _MAX_UID_LENGTH + 1])
    if len(line) <= _MAX_UID_LENGTH:
        return line
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"{line[: _MAX_UID_LENGTH - len(digest) - 1]}-{digest}"


def _shortened(value: Any, clock: Callable[[], float] = time.perf_counter) -> tuple[Any, list[str]]:
    """Return a value as JSON values, and the keys of those that were left out."""
    whole = Conversion(MAX_VALUES, MAX_CHARACTERS, _time_limit(clock))
    converted = whole.convert(value)
    if not whole.is_full or not issubclass(type(value), dict):
        return converted, []
    try:
        selection = Selection(MAX_VALUES, MAX_CHARACTERS, _time_limit(clock))
        selection.convert(value)
    except Exception:  # noqa: BLE001 - another thread may be changing it
        return converted, []
    return selection.converted, selection.missing


def _time_limit(clock: Callable[[], float]) -> Callable[[], bool]:
    end = clock() + MAX_SECONDS
    return lambda: clock() >= end
