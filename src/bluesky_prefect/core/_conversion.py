"""Conversion of any value to what JSON has, within a budget."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time
from typing import Any

import orjson

# The deepest nesting kept. orjson refuses above 254 levels; nobody types half of that.
MAX_DEPTH = 64
# Larger arrays are replaced by their type and shape: metadata that large is data, and lives in Tiled.
MAX_ARRAY_SIZE = 10_000
_MAX_ARRAY_BYTES = 10_000_000
MAX_REPR_LENGTH = 10_000
# Python itself refuses to write integers of more than 4,300 digits, unless told otherwise.
_MAX_INT_BITS = 14_000
_INT64 = range(-(2**63), 2**63)
# A set whose members hold more than this keeps its own order: sorting it would write them once more at each level.
_MAX_SORTED_VALUES = 1_000
_MAX_SORTED_CHARACTERS = 100_000
_BUILTIN_CONTAINERS: tuple[tuple[type, Callable[[Any], Iterable[Any]]], ...] = (
    (dict, dict.items),
    (list, list.__iter__),
    (tuple, tuple.__iter__),
    (set, set.__iter__),
    (frozenset, frozenset.__iter__),
)
_CONTAINERS = (Mapping, Sequence, Set, ValuesView)


class Conversion:
    """One walk through a value. What comes after its budget is spent is left out, and a text in its place says so.

    Parameters
    ----------
    values : int
        How many values may be converted, those in containers and the containers themselves.
    characters : int
        How many characters their texts may have.
    late : callable
        Whether the time is up; it never is by default. From then on only scalars, bytes and Python's own containers are
        converted: how long anything else takes is not for the budget to tell.
    """

    def __init__(self, values: int, characters: int, late: Callable[[], bool] = bool) -> None:
        self._path: set[int] = set()
        self._late, self._refused = late, False
        self._values, self._characters = values, characters
        self.values_left, self.characters_left = values, characters

    @property
    def is_full(self) -> bool:
        """True if something was left out for the budget."""
        return self.values_left < 0 or self.characters_left < 0 or self._refused

    def convert(self, value: Any) -> Any:
        """Return a value made of nothing but dict, list, str, int, float, bool and None."""
        self.values_left -= 1
        if self.values_left < 0:
            return self._too_many(value)
        kind = type(value)
        if kind is str:
            return self.text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if value in _INT64 else self._integer(value)
        if kind is float:
            return value if math.isfinite(value) else repr(value)
        return self._guarded(value)

    def text(self, text: str) -> str:
        """Return a text without what PostgreSQL refuses (NUL, lone surrogates), or what says that it is left out."""
        # Before it is escaped, which takes as much memory again.
        if len(text) <= self.characters_left:
            text = _escaped(text)
        self.characters_left -= len(text)
        if self.characters_left < 0:
            return left_out(text, f"the document has more than {self._characters} characters")
        return text

    def key(self, key: Any) -> str:
        """Return the key of a mapping as text."""
        return self.text(key) if type(key) is str else self.text(str(self.convert(key)))

    def _guarded(self, value: Any) -> Any:
        """Convert an object of any other type, which may raise anything and refer to itself."""
        # No repr here: that of a container unfolds all of it, and may take for ever.
        if id(value) in self._path:
            return self.text(left_out(value, "it contains itself"))
        if len(self._path) >= MAX_DEPTH:
            return self.text(left_out(value, f"it is nested deeper than {MAX_DEPTH} levels"))
        self._path.add(id(value))
        try:
            return self._convert_object(value)
        except Exception:  # noqa: BLE001 - a document is recorded whatever it holds
            return self._unreadable(value)
        finally:
            self._path.discard(id(value))

    def _convert_object(self, value: Any) -> Any:
        kind = type(value)
        if kind is dict:
            return self._pairs(value.items())
        if kind is list or kind is tuple:
            return self._items(value)
        if kind is set or kind is frozenset:
            return self._members(value)
        if isinstance(value, bytes | bytearray):
            return self._bytes(value)
        if isinstance(value, datetime | date | time):
            return self.convert(value.isoformat())
        if isinstance(value, str):
            # An exact str, and no longer than is needed to see that it is too long.
            return self.text(str.__getitem__(value, slice(max(self.characters_left, 0) + 1)))
        if isinstance(value, int | float):
            return self.convert(int.__int__(value) if isinstance(value, int) else float.__float__(value))
        if self._late() and getattr(value, "shape", None) != ():  # numpy's scalars have this one
            return self._too_late(value)
        if isinstance(value, Mapping):
            return self._pairs(value.items())
        if isinstance(value, list | tuple):
            return self._items(value)
        if isinstance(value, Set | ValuesView):  # views of keys and items are sets
            return self._members(value)
        if isinstance(value, Sequence) and not isinstance(value, memoryview):
            return self._items(value)
        if hasattr(value, "dtype") and hasattr(value, "tolist"):
            return self._array(value)
        return self._representation(value)

    def _unreadable(self, value: Any) -> Any:
        """Convert an object whose own methods fail."""
        kind = type(value)  # not by isinstance, which asks the object
        members = next((members for builtin, members in _BUILTIN_CONTAINERS if issubclass(kind, builtin)), None)
        try:
            if members is not None:
                return self._pairs(members(value)) if issubclass(kind, dict) else self._items(members(value))
        except Exception:  # noqa: BLE001, S110 - another thread may be changing it
            pass
        if issubclass(kind, _CONTAINERS):
            return self.text(left_out(value, "it cannot be read"))
        return self._too_late(value) if self._late() else self._representation(value)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        converted: dict[str, Any] = {}
        for key, item in pairs:
            name = self.key(key)
            converted[name] = self.convert(item)
            if self.is_full:
                break
        return converted

    def _items(self, items: Iterable[Any]) -> list[Any]:
        converted: list[Any] = []
        for item in items:
            converted.append(self.convert(item))
            if self.is_full:
                break
        return converted

    def _members(self, members: Iterable[Any]) -> list[Any]:
        """Convert what has no order of its own."""
        values, characters = self.values_left, self.characters_left
        converted = self._items(members)
        nested = any(isinstance(item, list | dict) for item in converted)
        small = values - self.values_left <= _MAX_SORTED_VALUES
        small &= characters - self.characters_left <= _MAX_SORTED_CHARACTERS
        # By the converted form: the repr of a set of sets unfolds them, which takes for ever.
        return sorted(converted, key=_order) if small or not nested else converted

    def _array(self, array: Any) -> Any:
        # An empty array, too, may unfold to any number of empty lists.
        size = math.prod(length or 1 for length in array.shape)
        if size > MAX_ARRAY_SIZE or array.nbytes > _MAX_ARRAY_BYTES:
            what = f"{size} elements of {str(array.dtype)[:100]}, shape {list(array.shape)}"
            return self.text(left_out(array, f"an array of more than {MAX_ARRAY_SIZE} elements or 10 MB ({what})"))
        # Before it is unfolded, which takes milliseconds. An element of a table unfolds to its fields.
        if size * len(getattr(array.dtype, "names", None) or "1") > self.values_left:
            return self._too_many(array)
        plain = array.tolist()
        # What Python has no type for (numpy.longdouble) stays what it is.
        return self._representation(array) if type(plain) is type(array) else self.convert(plain)

    def _bytes(self, value: bytes | bytearray) -> str:
        # Each byte takes a character at least; the whole would take four, of hundreds of megabytes.
        some = slice(min(MAX_REPR_LENGTH, max(self.characters_left, 0) + 1))
        start = bytes.__getitem__(value, some) if isinstance(value, bytes) else bytearray.__getitem__(value, some)
        return self.text(_cut(repr(start)))

    def _too_many(self, value: Any) -> str:
        self._refused = True
        return left_out(value, f"the document has more than {self._values} values")

    def _too_late(self, value: Any) -> str:
        self._refused = True
        return left_out(value, "the document takes too long to convert")

    def _integer(self, value: int) -> str:
        if value.bit_length() > _MAX_INT_BITS:
            return left_out(value, f"an integer of {value.bit_length()} bits")
        return self.text(_cut(repr(value)))

    def _representation(self, value: Any) -> str:
        try:
            return self.text(_cut(str.__str__(repr(value))))
        except Exception:  # noqa: BLE001 - a broken __repr__ must not lose the run
            return f"<{_type_name(value)} without a repr>"


def left_out(value: Any, why: str) -> str:
    """Return the text that stands in the place of a value."""
    return f"<{_type_name(value)} left out: {why}>"


def _escaped(text: str) -> str:
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_REPR_LENGTH else text[:MAX_REPR_LENGTH] + "..."


def _order(converted: Any) -> tuple[int, Any]:
    """Return what values that were converted are sorted by: numbers, texts, None, containers."""
    if isinstance(converted, str):
        return 1, converted
    if isinstance(converted, int | float):
        return 0, converted
    return (2, b"") if converted is None else (3, orjson.dumps(converted))


def _type_name(value: Any) -> str:
    # Past the metaclass, which may answer anything.
    return type.__dict__["__name__"].__get__(type(value))[:100]
