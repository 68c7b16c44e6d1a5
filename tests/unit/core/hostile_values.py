"""Values that no document should hold, each made anew by its name."""

import datetime
import decimal
import enum
import fractions
import itertools
import pathlib
import re
import threading
import types
import uuid
import weakref
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


def _raising(error: type[BaseException]) -> Callable[..., Any]:
    def method(*args: Any, **options: Any) -> Any:
        raise error("x\nERROR forged \ud800 \x00")

    return method


def _broken(*methods: str, base: type = object, error: type[BaseException] = RuntimeError) -> Any:
    """Return an instance of a class some of whose methods raise."""
    return type("x\nERROR forged", (base,), dict.fromkeys(methods, _raising(error)))()


class Endless(list):
    def __iter__(self) -> Any:
        return itertools.repeat("again")


class EndlessMapping(dict):
    def items(self) -> Any:
        return ((str(number), number) for number in itertools.count())


class Liar(Mapping):
    def __getitem__(self, key: Any) -> Any:
        return key

    def __iter__(self) -> Any:
        return iter(["a", "a", b"\xff", None])

    def __len__(self) -> int:
        return -1

    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def items(self) -> Any:
        return [1, 2, 3]


class Disguised:
    @property
    def __class__(self) -> Any:
        return str


class Yes:
    """Has every attribute, among them those of an array."""

    shape = ()

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any) -> Any:
        return [self, Yes()]


class Incomparable:
    __eq__ = _raising(RuntimeError)

    def __hash__(self) -> int:
        return 1


class EndlessRepr:
    def __repr__(self) -> str:
        return f"<{self!r}>"


class Colour(enum.StrEnum):
    RED = "red\x00\ud800"


class OddInt(int):
    def __int__(self) -> Any:
        return "not a number"

    __repr__ = __str__ = __index__ = _raising(ArithmeticError)


class OddText(str):
    __slots__ = ()
    __contains__ = encode = isascii = replace = __len__ = _raising(UnicodeError)


@dataclass
class Node:
    other: Any = None


def _cycle(kind: type) -> Any:
    container = kind()
    inner = (container, [container])
    container.append(inner) if kind is list else container.update(self=inner)
    return container


def _two_nodes() -> Node:
    node = Node()
    node.other = Node(node)
    return node


def _deep(kind: type, levels: int) -> Any:
    nested: Any = kind()
    for _ in range(levels):
        nested = [nested] if kind is list else {"deeper": nested}
    return nested


def _laughs(levels: int) -> Any:
    laughs: Any = "ha\x00"
    for _ in range(levels):
        laughs = [laughs] * 10
    return laughs


def _crowd() -> list[dict[str, Any]]:
    crowd: list[dict[str, Any]] = [{} for _ in range(12)]
    for member in crowd:
        member.update((str(number), other) for number, other in enumerate(crowd))
    return crowd


def _object_array() -> Any:
    array = np.empty(2, dtype=object)
    array[:] = [array, "\ud800"]
    return array


def _dead_proxy() -> Any:
    return weakref.proxy(Node())  # its Node is gone at once


HOSTILE_VALUES: dict[str, Callable[[], Any]] = {
    "list that contains itself": lambda: _cycle(list),
    "dict that contains itself": lambda: _cycle(dict),
    "objects that contain one another": _two_nodes,
    "deep list": lambda: _deep(list, 2000),
    "deep dict": lambda: _deep(dict, 300),
    "list of 10^50 values": lambda: _laughs(50),
    "list of 10^100 values": lambda: _laughs(100),
    "dicts that all contain one another": _crowd,
    "list without an end": Endless,
    "mapping without an end": EndlessMapping,
    "mapping that lies": Liar,
    "object of a false class": Disguised,
    "object with an endless repr": EndlessRepr,
    "object without a repr": lambda: _broken("__repr__", "__str__"),
    "object out of memory": lambda: _broken("__repr__", error=MemoryError),
    "object with no bool": lambda: _broken("__bool__", "__eq__", "__len__"),
    "object that has any attribute": Yes,
    "object that fails for any attribute": lambda: _broken("__getattr__", "__repr__", error=RecursionError),
    "object of a raising class": lambda: type("Hidden", (), {"__class__": property(_raising(OSError))})(),
    "key that cannot be compared": lambda: {Incomparable(): 1},
    "dict without items": lambda: _broken("items", "__iter__", base=dict),
    "dict without keys": lambda: _broken("keys", "get", "__getitem__", "__contains__", base=dict),
    "dict without anything": lambda: _broken("items", "get", "__repr__", "__len__", "__bool__", base=dict),
    "list without items": lambda: _broken("__iter__", "__len__", base=list),
    "set without items": lambda: _broken("__iter__", base=set),
    "set of anything": lambda: {1, "a", None, (2, b"\x00"), frozenset({1.5})},
    "dead proxy": _dead_proxy,
    "odd int": lambda: OddInt(7),
    "odd text": lambda: OddText("\ud800\x00"),
    "enum of hostile text": lambda: Colour.RED,
    "int of 5000 digits": lambda: 10**5000,
    "long text": lambda: "\u202e" * 50_000,
    "bytes": lambda: bytes(range(256)),
    "bytearray": lambda: bytearray(b"\x00\xff"),
    "memoryview": lambda: memoryview(b"\x00"),
    "endless iterator": itertools.count,
    "generator": lambda: (_ for _ in ()),
    "range": lambda: range(10**12),
    "module": lambda: types,
    "class": lambda: type("x\nERROR forged", (), {}),
    "lock": threading.Lock,
    "exception": lambda: ValueError("\ud800\n"),
    "pattern": lambda: re.compile("\x00\n"),
    "path": lambda: pathlib.PurePosixPath("/\udcff/\n"),
    "uuid": lambda: uuid.UUID(int=0),
    "signalling NaN": lambda: decimal.Decimal("sNaN"),
    "fraction": lambda: fractions.Fraction(10**400, 3),
    "complex": lambda: complex("nan"),
    "date": lambda: datetime.date.max,
    "time without a zone": lambda: datetime.datetime(1, 1, 1, tzinfo=_broken("utcoffset", base=datetime.tzinfo)),
    "duration": lambda: datetime.timedelta.max,
    "ellipsis": lambda: ...,
    "ordered dict": lambda: OrderedDict({"\ud800": OrderedDict()}),
    "user dict": lambda: UserDict({1: UserDict()}),
    "chain map": lambda: ChainMap({"a": 1}, {"a": 2}),
    "default dict": lambda: defaultdict(list, {None: 1}),
    "mapping proxy": lambda: types.MappingProxyType({b"\x00": 1}),
    "named tuple": lambda: Node.__dataclass_fields__,
    "numpy NaN": lambda: np.array([np.nan, -np.inf], np.float16),
    "numpy number of 80 bits": lambda: np.longdouble("1.5"),
    "numpy numbers of 80 bits": lambda: np.array([1.5, np.nan], np.longdouble),
    "numpy complex": lambda: np.array([1j]),
    "numpy unsigned": lambda: np.array([2**64 - 1], np.uint64),
    "numpy text": lambda: np.array(["\ud800", "x\x00y"]),
    "numpy bytes": lambda: np.array([b"\x00\xff", b""]),
    "numpy void": lambda: np.zeros(2, "V3"),
    "numpy record": lambda: np.rec.array([(1, b"\xff", [1.0, np.inf])], dtype="i2,S3,2f4"),
    "numpy masked": lambda: np.ma.masked_array([1, 2], [True, False]),
    "numpy masked constant": lambda: np.ma.masked,
    "numpy no time": lambda: np.array(["NaT", "2026-01-01"], "M8[ns]"),
    "numpy time": lambda: np.datetime64("2026-01-01T00:00:00.000000001"),
    "numpy duration": lambda: np.timedelta64(1, "Y"),
    "numpy array that contains itself": _object_array,
    "numpy empty": lambda: np.empty((10**10, 0)),
    "numpy broadcast": lambda: np.broadcast_to(0, (10**6, 10**6)),
    "numpy read from the end": lambda: np.arange(6).reshape(2, 3)[::-1, ::-2],
    "numpy of 32 dimensions": lambda: np.ones((1,) * 32),
    "numpy type": lambda: np.dtype("i4,(2,3)f8"),
}
