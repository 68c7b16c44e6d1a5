"""Pickles read as data, without Python's unpickler.

That one calls what a pickle names, in whichever order and with whichever arguments its writer likes: numpy's own
functions among them, which take bytes for the addresses of objects. Here a pickle is a list of steps for the few types
that documents consist of, and each of them is made here.
"""

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from bluesky_prefect.sources._measure import Measure
from bluesky_prefect.sources._named_values import Named, Unfinished, key, named, plain

# Values and characters beyond the message's own size: each may stand in many places.
_MOST_REPEATED = 4_000_000
_SIZED = (list, tuple, dict, str, bytes, bytearray)


def read_pickle(content: bytes) -> Any:
    """Return the data that a pickle holds.

    Raises
    ------
    pickle.UnpicklingError
        If it names something that is not data.
    Exception
        Of any kind, if it is damaged, holds itself, or would become far larger than it is.
    """
    most = len(content) + _MOST_REPEATED
    value = _Machine(most).run(content)
    Measure(most).of(value)
    return value


class _Machine:
    """The steps of a pickle of protocol 2 to 5, on a stack and a memo of its own."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for step, argument, _ in pickletools.genops(content):
            name = step.name
            if name in _LITERAL:
                self._stack.append(argument)
            elif name in _CONSTANT:
                self._stack.append(_CONSTANT[name]())
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[plain(argument, int)])
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._keep(plain(argument, int))
            elif name == "MEMOIZE":
                self._keep(len(self._memo))
            elif name == "STOP":
                (value,) = self._stack
                return value
            elif name not in ("PROTO", "FRAME"):
                self._step(name, argument)
        raise pickle.UnpicklingError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "TUPLE":
                values = tuple(self._since_mark())
                self._stack.append(values)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError("it has no value for a tuple")
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                value = stack.pop()
                plain(stack[-1], list).append(value)
            case "APPENDS":
                values = self._since_mark()
                plain(self._stack[-1], list).extend(values)
            case "SETITEM":
                value, name_of = stack.pop(), stack.pop()
                plain(stack[-1], dict, OrderedDict)[key(name_of)] = value
            case "SETITEMS":
                values = self._since_mark()
                items = plain(self._stack[-1], dict, OrderedDict)
                for name_of, value in zip(values[::2], values[1::2], strict=True):
                    items[key(name_of)] = value
            case "ADDITEMS":
                values = self._since_mark()
                plain(self._stack[-1], set).update(map(key, values))
            case "FROZENSET":
                values = self._since_mark()
                self._stack.append(frozenset(map(key, values)))
            case "GLOBAL":
                stack.append(named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                what, module = plain(stack.pop(), str), plain(stack.pop(), str)
                stack.append(named(module, what))
            case "REDUCE" | "NEWOBJ":
                arguments, known = plain(stack.pop(), tuple), plain(stack.pop(), Named)
                if known.make is None:
                    raise TypeError("it makes an array as no document does")
                self._spend(arguments)
                stack.append(known.make(*arguments))
            case "BUILD":
                self._build(stack.pop())
            case _:
                raise pickle.UnpicklingError(f"it takes the step {name}, which data does not need")

    def _build(self, state: Any) -> None:
        unfinished = self._stack[-1]
        if not isinstance(unfinished, Unfinished):
            raise TypeError("it gives a value contents that has them already")
        self._spend(plain(state, dict).values() if isinstance(state, dict) else plain(state, tuple))
        value = self._stack[-1] = unfinished.finish(state)
        for number in unfinished.numbers:
            self._memo[number] = value
        unfinished.numbers.clear()

    def _spend(self, values: Any) -> None:
        """Count what a value is made of: one list could be made into sets, or arrays, again and again."""
        self._left -= sum(len(one) for one in values if isinstance(one, _SIZED))
        if self._left < 0:
            raise ValueError("it would become far larger than it is")

    def _keep(self, number: int) -> None:
        value = self._memo[number] = self._stack[-1]
        if isinstance(value, Unfinished):
            value.numbers.append(number)

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values


_LITERAL = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERAL |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANT: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
