"""The size of values in which one may stand in many places."""

import pickle
from collections import ChainMap
from typing import Any

import numpy as np

from bluesky_prefect.sources._named_values import SCALARS

_MOST_NESTED = 200


class Measure:
    """Adds up what a value holds, in each place where it stands."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[int, tuple[int, int]] = {}
        self._within: set[int] = set()

    def of(self, value: Any) -> tuple[int, int]:
        """Return a value's size and how deep it is nested; raises `ValueError` if either is too much."""
        if id(value) in self._known:
            return self._known[id(value)]
        if id(value) in self._within:
            raise ValueError("it holds itself")
        if len(self._within) >= _MOST_NESTED:
            raise ValueError("it is nested too deep")
        self._within.add(id(value))
        parts, size = _parts(value)
        deepest = 0
        for part in parts:
            of_part, depth = self.of(part)
            size += of_part
            deepest = max(deepest, depth + 1)
            if size > self._most:
                break
        if size > self._most:
            raise ValueError("it would become far larger than it is")
        if deepest >= _MOST_NESTED:  # where a part is met a second time, deeper than at first
            raise ValueError("it is nested too deep")
        self._within.discard(id(value))
        self._known[id(value)] = size, deepest
        return size, deepest


def _parts(value: Any) -> tuple[list[Any], int]:
    """Return what a value consists of, and its own size."""
    match value:
        case ChainMap():
            return list(value.maps), 1
        case dict():
            return [*value.keys(), *value.values()], 1
        case list() | tuple() | set() | frozenset():
            return list(value), 1
        case np.ndarray() if value.dtype == object:
            return list(value.flat), 1
        case np.ndarray() | np.generic():
            return [], value.nbytes + 1
        case str() | bytes() | bytearray() | range():
            return [], len(value) + 1
        case slice() | np.dtype() | bool():
            return [], 1
    if isinstance(value, SCALARS):
        return [], 1
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__} by itself, which is not data")
