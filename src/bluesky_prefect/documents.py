"""Documents as JSON, whatever they hold."""

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

import orjson

# The deepest nesting kept. orjson refuses above 254 levels; nobody types half of that.
MAX_DEPTH = 64
# Larger arrays are replaced by their (abbreviated) repr: metadata that large is data, and lives in Tiled.
MAX_ARRAY_SIZE = 10_000
# Objects that refer to one another in a few steps can unfold to billions of values; the callback stops well before.
MAX_VALUES = 50_000
MAX_REPR_LENGTH = 10_000
_INT64 = range(-(2**63), 2**63)


def jsonable(value: Any) -> Any:
    """Return `value` made of nothing but dict, list, str, int, float, bool and None.

    Numpy scalars and arrays become numbers and lists; dates become ISO 8601 strings; sets and tuples become
    lists. What JSON cannot hold (NaN, infinities, integers beyond 64 bits, bytes, other objects, arrays of more
    than `MAX_ARRAY_SIZE` elements, cycles, nesting beyond `MAX_DEPTH`) is replaced by its ``repr``, cut at
    `MAX_REPR_LENGTH` characters. NUL characters and lone surrogates in strings, which PostgreSQL refuses, are
    written as escapes.

    Never raises, and shares no mutable object with `value`.
    """
    return _Conversion().convert(value)


def to_json(value: Any) -> bytes:
    """Return `value` as JSON text (UTF-8), converted by `jsonable` first. Never raises."""
    return orjson.dumps(jsonable(value))


def from_json(text: bytes | str) -> Any:
    """Return what `to_json` wrote.

    Raises
    ------
    ValueError
        If `text` is not JSON.
    """
    return orjson.loads(text)


class _Conversion:
    """One walk through a document."""

    def __init__(self) -> None:
        self._path: set[int] = set()
        self._values_left = MAX_VALUES

    def convert(self, value: Any) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            return f"<{type(value).__name__} left out: the document has more than {MAX_VALUES} values>"
        kind = type(value)
        if kind is str:
            return _text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if value in _INT64 else _representation(value)
        if kind is float:
            return value if math.isfinite(value) else repr(value)
        return self._guarded(value)

    def _guarded(self, value: Any) -> Any:
        """Convert an object of any other type, which may raise anything and refer to itself."""
        if id(value) in self._path or len(self._path) >= MAX_DEPTH:
            return _representation(value)
        self._path.add(id(value))
        try:
            return self._convert_object(value)
        except Exception:  # noqa: BLE001 - a document is recorded whatever it holds
            return _representation(value)
        finally:
            self._path.discard(id(value))

    def _convert_object(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._key(key): self.convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return self._convert_items(value)
        if isinstance(value, set | frozenset):
            return self._convert_items(sorted(value, key=repr))
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, int | float | str):
            return self.convert(_builtin(value))
        if hasattr(value, "dtype") and hasattr(value, "tolist"):
            return self._convert_array(value)
        return _representation(value)

    def _convert_items(self, items: Iterable[Any]) -> list[Any]:
        return [self.convert(item) for item in items]

    def _convert_array(self, array: Any) -> Any:
        if array.size > MAX_ARRAY_SIZE:
            return _representation(array)
        return self.convert(array.tolist())

    def _key(self, key: Any) -> str:
        return _text(key) if type(key) is str else str(self.convert(key))


def _builtin(value: int | float | str) -> Any:
    """Return the plain value of an instance of a subclass (an enum member, numpy.float64, numpy.str_)."""
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else float(value)


def _text(text: str) -> str:
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _representation(value: Any) -> str:
    try:
        text = _text(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__ must not lose the run
        return f"<{type(value).__name__} without a repr>"
    return text if len(text) <= MAX_REPR_LENGTH else text[:MAX_REPR_LENGTH] + "..."
