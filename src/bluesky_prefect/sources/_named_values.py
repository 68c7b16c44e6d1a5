"""Names that a pickle of data may use, each with a function of ours in its place."""

import math
import pickle
import re
from collections import ChainMap, OrderedDict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import numpy as np

from bluesky_prefect.core import one_line
from bluesky_prefect.journal import array_of

SCALARS = (str, bytes, int, float, complex, type(None), date, time, timedelta, timezone)
_MOST_IN_KEY = 20
_MOST_NESTED = 10
_MOST_FIELDS = 256
_SIMPLE = re.compile(r"[biufcSUVMm][0-9]{0,9}")


class Named:
    """A name that a pickle may use, and the function that is called in its place."""

    def __init__(self, make: Callable[..., Any] | None = None) -> None:
        self.make = make


class Unfinished:
    """A value whose contents come in a later step.

    Attributes
    ----------
    numbers : list of int
        Where a pickle keeps it meanwhile.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def finish(self, state: Any) -> Any:
        """Return the value with these contents."""
        raise NotImplementedError


class _Array(Unfinished):
    def finish(self, state: Any) -> Any:
        *_, shape, dtype, is_fortran, data = state
        order = "F" if is_fortran else "C"
        return _objects(shape, data, order) if dtype is _OBJECT else array_of(_numpy(dtype), shape, data, order)


class _Type(Unfinished):
    def __init__(self, text: Any) -> None:
        super().__init__()
        self._text = plain(text, str)

    def finish(self, state: Any) -> Any:
        _, order, part, names, fields, size, _, _, *about = state
        if self._text in ("O", "O8"):
            return _OBJECT
        if part is not None:
            base, shape = part
            dtype = np.dtype((_numpy(base), shape))
            return _Fields(dtype, base.depth, base.count) if isinstance(base, _Fields) else dtype
        if names:
            return _Fields.of([(name, *fields[name]) for name in names], size)
        text = self._text
        if not _SIMPLE.fullmatch(text):
            raise ValueError(f"it holds an array of an unknown type, {one_line(text, 50)}")
        if about and text in ("M8", "m8"):
            unit, number, *_ = about[0][1]
            if unit != b"generic":
                text = f"{text}[{number}{unit.decode()}]"
        dtype = np.dtype(text)
        other = dtype.newbyteorder(order) if order in ("<", ">") else dtype
        return dtype if dtype == other else other


class _Fields:
    """A type of fields: how deep they are nested, and how many there are, is known before anybody goes through them."""

    def __init__(self, dtype: Any, depth: int, count: int) -> None:
        self.dtype = dtype
        self.depth = depth
        self.count = count
        if depth > _MOST_NESTED or count > _MOST_FIELDS:
            raise ValueError("it holds an array of too many fields")

    @classmethod
    def of(cls, columns: list[Any], size: Any) -> "_Fields":
        """Return the type of a name, a type, an offset and maybe a title for each field."""
        nested = [one[1] for one in columns if isinstance(one[1], _Fields)]
        described: Any = {
            "names": [one[0] for one in columns],
            "formats": [_numpy(one[1]) for one in columns],
            "offsets": [one[2] for one in columns],
            "titles": [one[3] if len(one) > 3 else None for one in columns],
            "itemsize": size,
        }
        depth = 1 + max((one.depth for one in nested), default=0)
        count = len(columns) + sum(one.count for one in nested)
        return cls(np.dtype(described), depth, count)


class _Chain(Unfinished):
    def finish(self, state: Any) -> Any:
        maps = [plain(one, dict) for one in plain(state["maps"], list)]
        return ChainMap(*maps)


_OBJECT = object()


def plain(value: Any, *kinds: type) -> Any:
    """Return a value of exactly one of these types."""
    if type(value) not in kinds:
        raise TypeError(f"it holds a {type(value).__name__} in the wrong place")
    return value


def _numpy(value: Any) -> "np.dtype[Any]":
    if isinstance(value, _Fields):
        return value.dtype
    if not isinstance(value, np.dtype):
        raise TypeError("it holds something else in the place of a data type")
    return value


def _objects(shape: Any, values: Any, order: Any) -> Any:
    array = np.empty(len(plain(values, list)), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    if not values:
        return array  # its other dimensions could be large
    if math.prod(shape) != array.size:
        raise ValueError("an array's shape does not go with its values")
    return array.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    dtype = _numpy(dtype)
    if not dtype.itemsize and dtype.kind in "US":
        return dtype.type()
    return array_of(dtype, (), data)[()]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    array = array_of(_numpy(dtype), shape, data, order)
    if axes is None:
        return array
    if not array.size:
        raise ValueError("an array without elements has its dimensions in another order")
    return array.transpose(plain(axes, tuple))


def _ofplain(make: Callable[..., Any], *kinds: type) -> Named:
    """Return a name for a type that is made of one value or several of these kinds."""
    return Named(lambda *values: make(*(plain(value, *kinds) for value in values)))


def _set_of(make: Callable[..., Any]) -> Named:
    return Named(lambda values=(): make(map(key, plain(values, list, tuple))))


_WHOLE = (int, type(None))
_TIME = (int, bytes, type(None), timezone)
_NDARRAY = Named()
_NAMES = {
    ("numpy", "dtype"): Named(lambda text, *_: _Type(text)),
    ("numpy", "ndarray"): _NDARRAY,
    **{
        (f"numpy.{core}.{module}", name): known
        for core in ("core", "_core")
        for module, name, known in (
            ("multiarray", "_reconstruct", Named(lambda *_: _Array())),
            ("multiarray", "scalar", Named(_scalar)),
            ("numeric", "_frombuffer", Named(_from_buffer)),
        )
    },
    ("builtins", "set"): _set_of(set),
    ("builtins", "frozenset"): _set_of(frozenset),
    ("builtins", "complex"): _ofplain(complex, float, int),
    ("builtins", "bytearray"): _ofplain(bytearray, bytes),
    ("builtins", "slice"): _ofplain(slice, *_WHOLE),
    ("builtins", "range"): _ofplain(range, int),
    ("collections", "OrderedDict"): Named(lambda: OrderedDict()),
    ("collections", "ChainMap"): Named(lambda: _Chain()),
    ("datetime", "date"): _ofplain(date, *_TIME),
    ("datetime", "datetime"): _ofplain(datetime, *_TIME),
    ("datetime", "time"): _ofplain(time, *_TIME),
    ("datetime", "timedelta"): _ofplain(timedelta, int),
    ("datetime", "timezone"): _ofplain(timezone, timedelta, str),
}


def named(module: str, name: str) -> Named:
    known = _NAMES.get((module, name))
    if known is None:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not data")
    return known


def key(value: Any) -> Any:
    """Return a value whose hash is soon computed: a tuple of tuples may take years, or the end of the process."""
    if isinstance(value, tuple) and len(value) <= _MOST_IN_KEY and all(isinstance(one, SCALARS) for one in value):
        return value
    if isinstance(value, (*SCALARS, np.number, np.bool_, np.datetime64, np.timedelta64)):
        return value
    raise TypeError(f"it holds a {type(value).__name__} in the place of a key")
