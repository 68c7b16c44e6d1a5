"""Documents as JSON, whatever they hold."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

import orjson

from bluesky_prefect.texts import one_line

# The deepest nesting kept. orjson refuses above 254 levels; nobody types half of that.
MAX_DEPTH = 64
# Larger arrays are replaced by their (abbreviated) repr: metadata that large is data, and lives in Tiled.
MAX_ARRAY_SIZE = 10_000
# Objects that refer to one another in a few steps can unfold to billions of values, a string that is referred to often
# to gigabytes of text; the callback stops well before.
MAX_VALUES = 50_000
MAX_CHARACTERS = 10_000_000
MAX_REPR_LENGTH = 10_000
# PostgreSQL indexes keys of some 2,700 bytes at most.
_MAX_UID_LENGTH = 200
_INT64 = range(-(2**63), 2**63)


def jsonable(value: Any) -> Any:
    """Return `value` made of nothing but dict, list, str, int, float, bool and None.

    Numpy scalars and arrays become numbers and lists; dates become ISO 8601 strings; sets and sequences
    become lists. What JSON cannot hold (NaN, infinities, integers beyond 64 bits, bytes, other objects, arrays of more
    than `MAX_ARRAY_SIZE` elements) is replaced by its ``repr``, cut at `MAX_REPR_LENGTH` characters. What contains
    itself, is nested beyond `MAX_DEPTH`, or comes after `MAX_VALUES` values or `MAX_CHARACTERS` characters, is left
    out, and a text in its place says so. NUL characters and lone surrogates in strings, which PostgreSQL refuses,
    are written as escapes.

    Never raises an `Exception`, and shares no mutable object with `value`.
    """
    return _Conversion().convert(value)


def to_json(value: Any) -> bytes:
    """Return `value` as JSON text (UTF-8), converted by `jsonable` first. Never raises an `Exception`."""
    return orjson.dumps(jsonable(value))


def from_json(text: bytes | str) -> Any:
    """Return what `to_json` wrote.

    Raises
    ------
    ValueError
        If `text` is not JSON.
    """
    return orjson.loads(text)


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


class _Conversion:
    """One walk through a document."""

    def __init__(self) -> None:
        self._path: set[int] = set()
        self._values_left = MAX_VALUES
        self._characters_left = MAX_CHARACTERS

    def convert(self, value: Any) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            return _left_out(value, f"the document has more than {MAX_VALUES} values")
        kind = type(value)
        if kind is str:
            return self._string(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if value in _INT64 else _representation(value)
        if kind is float:
            return value if math.isfinite(value) else repr(value)
        return self._guarded(value)

    def _guarded(self, value: Any) -> Any:
        """Convert an object of any other type, which may raise anything and refer to itself."""
        # No repr here: that of a container unfolds all of it, and may take for ever.
        if id(value) in self._path:
            return _left_out(value, "it contains itself")
        if len(self._path) >= MAX_DEPTH:
            return _left_out(value, f"it is nested deeper than {MAX_DEPTH} levels")
        self._path.add(id(value))
        try:
            return self._convert_object(value)
        except Exception:  # noqa: BLE001 - a document is recorded whatever it holds
            return _representation(value)
        finally:
            self._path.discard(id(value))

    def _convert_object(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self._convert_mapping(value)
        if isinstance(value, list | tuple):
            return self._convert_items(value)
        if isinstance(value, set | frozenset):
            return self._convert_items(sorted(itertools.islice(value, MAX_VALUES + 1), key=repr))
        if isinstance(value, datetime | date | time):
            return self.convert(value.isoformat())
        if isinstance(value, int | float | str):
            return self.convert(_builtin(value))
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
            return self._convert_items(value)
        if hasattr(value, "dtype") and hasattr(value, "tolist"):
            return self._convert_array(value)
        return _representation(value)

    def _convert_mapping(self, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        converted: dict[str, Any] = {}
        for key, item in mapping.items():
            name = self._key(key)
            converted[name] = self.convert(item)
            if self._is_full:
                break
        return converted

    def _convert_items(self, items: Iterable[Any]) -> list[Any]:
        converted: list[Any] = []
        for item in items:
            converted.append(self.convert(item))
            if self._is_full:
                break
        return converted

    def _convert_array(self, array: Any) -> Any:
        # An empty array, too, may unfold to any number of empty lists.
        if math.prod(length or 1 for length in array.shape) > MAX_ARRAY_SIZE:
            return _representation(array)
        plain = array.tolist()
        # What Python has no type for (numpy.longdouble) stays what it is.
        return _representation(array) if type(plain) is type(array) else self.convert(plain)

    def _key(self, key: Any) -> str:
        return self._string(key) if type(key) is str else str(self.convert(key))

    def _string(self, text: str) -> str:
        self._characters_left -= len(text)
        if self._characters_left < 0:
            return _left_out(text, f"the document has more than {MAX_CHARACTERS} characters")
        return _text(text)

    @property
    def _is_full(self) -> bool:
        return self._values_left < 0 or self._characters_left < 0


def _builtin(value: int | float | str) -> Any:
    """Return the plain value of an instance of a subclass (an enum member, numpy.float64, numpy.str_)."""
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def _text(text: str) -> str:
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _representation(value: Any) -> str:
    try:
        text = str.__str__(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__ must not lose the run
        return f"<{_type_name(value)} without a repr>"
    cut = "" if len(text) <= MAX_REPR_LENGTH else "..."
    return _text(text[:MAX_REPR_LENGTH]) + cut


def _left_out(value: Any, why: str) -> str:
    return f"<{_type_name(value)} left out: {why}>"


def _type_name(value: Any) -> str:
    # Past the metaclass, which may answer anything.
    return type.__dict__["__name__"].__get__(type(value))
