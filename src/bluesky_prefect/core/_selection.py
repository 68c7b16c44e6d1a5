"""Selection of what is kept of a mapping that is too large: all keys, and of the values the smallest."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from bluesky_prefect.core._conversion import Conversion, left_out

ROUTING_KEYS = ("uid", "run_start", "time", "scan_id", "plan_name", "exit_status", "prefect", "reason")
"""Keys of documents that runs are known and routed by: if there are too many, these are kept."""
MORE_KEYS = "..."
"""The key in place of those that are too many."""
SHORT_TEXT = 1_000
"""Characters of a text that is kept before anything larger."""
_MAX_KEY_LENGTH = 10_000
# A number of a subclass, or numpy's, is converted twice.
_SCALAR_VALUES = 2
# At least what the text takes that stands in the place of a value.
_NOTE_LENGTH = 300
# How often the budget may be spent on finding out which values fit.
_MAX_WORK = 4.0
# The least that looking at a value counts, as a part of the budget: two values' worth.
_LEAST_WORK = 4e-5
# The least that a value may have, if there is so much.
_LEAST_SHARE = 10
_WORTH_SELECTING = 100
# They hold at least as many values as they say.
_SIZED = {dict, list, tuple, set, frozenset}


class Selection:
    """The part that is kept of a mapping that is too large.

    Its keys, numbers and short texts are kept first, then the rest, the smallest first. A value that does not fit any
    more is replaced as a whole by a text that says so; in the place of a mapping stands what is selected of it.

    Parameters
    ----------
    values, characters : int
        The budget; see `Conversion`. What is kept fits into one of the same size.
    late : callable
        Whether the time is up; it never is by default. Keys, numbers and short texts are kept even then, nothing more.

    Attributes
    ----------
    converted : dict
        What is kept, as JSON values.
    missing : list of str
        The keys of what was left out; those within a mapping as ``sample.mask``.
    """

    def __init__(self, values: int, characters: int, late: Callable[[], bool] = bool) -> None:
        self.converted: dict[str, Any] = {}
        self.missing: list[str] = []
        self._large: dict[str, Any] = {}
        self._values, self._characters, self._late = values, characters, late
        # The mapping is a value too, and so is the text about further keys.
        self._values_left, self._characters_left = values - 2, characters - _NOTE_LENGTH

    def convert(self, mapping: dict[Any, Any], *, nested: bool = True) -> None:
        """Select from a mapping; from the mappings in it as well, if `nested`."""
        for key, value in itertools.islice(_routing_keys_first(mapping), self._values + 1):
            if not self._take(key, value) and MORE_KEYS not in self.missing:
                self.converted[MORE_KEYS] = "<keys left out: they are too many, or too long>"
                self.missing.append(MORE_KEYS)
        self._fill(_MAX_WORK if nested else 1.0)
        self._leave_out(nested)

    def _take(self, key: Any, value: Any) -> bool:
        """Take a key, with its value if that is a scalar; tell whether the budget allows it."""
        head = Conversion(_WORTH_SELECTING, _MAX_KEY_LENGTH, self._late)
        name = head.key(key)
        part = Conversion(_SCALAR_VALUES, SHORT_TEXT, self._late)
        converted = part.convert(value)
        if part.is_full:
            converted = left_out(value, "it is too large beside the rest of its document")
            cost = 1, len(converted)
        else:
            cost = _SCALAR_VALUES - part.values_left, SHORT_TEXT - part.characters_left
        if head.is_full or not self._pay(cost[0], cost[1] + _MAX_KEY_LENGTH - head.characters_left):
            return False
        self._large.pop(name, None)
        if part.is_full:
            self._large[name] = value
        self.converted[name] = converted
        return True

    def _pay(self, values: int, characters: int) -> bool:
        if values > self._values_left or characters > self._characters_left:
            return False
        self._values_left -= values
        self._characters_left -= characters
        return True

    def _fill(self, max_work: float) -> None:
        """Convert what is no scalar, in equal shares of the budget, which grow until nothing more fits."""
        work, share = 0.0, self._least_share()
        while self._large:
            waiting = list(self._large)
            for name in waiting:
                if work > max_work or self._values_left <= 0 or self._late():
                    return
                work += self._try(name, share)
            if len(self._large) == len(waiting):
                if share == 1.0:
                    return
                share *= 2
            share = min(max(share, self._least_share()), 1.0)

    def _least_share(self) -> float:
        return min(max(1.0 / max(len(self._large), 1), _LEAST_SHARE / max(self._values_left, 1)), 1.0)

    def _try(self, name: str, share: float) -> float:
        """Convert a value if it fits into a share of what is left; return the part of the budget that looking took."""
        values, characters = int(share * self._values_left), int(share * self._characters_left)
        value = self._large[name]
        if type(value) in _SIZED and len(value) >= values:
            return _LEAST_WORK
        part = Conversion(values, characters, self._late)
        converted = part.convert(value)
        spent = values - max(part.values_left, 0), characters - max(part.characters_left, 0)
        if not part.is_full and self._pay(*spent):
            self.converted[name] = converted
            del self._large[name]
        return max(spent[0] / self._values, spent[1] / max(self._characters, 1), _LEAST_WORK)

    def _leave_out(self, nested: bool) -> None:
        for number, (name, value) in enumerate(self._large.items()):
            left = len(self._large) - number
            values, characters = self._values_left // left, self._characters_left // left
            worth_it = values > _WORTH_SELECTING and characters > _WORTH_SELECTING * _NOTE_LENGTH
            if not (nested and worth_it and issubclass(type(value), dict)) or self._late():
                self.missing.append(name)
                continue
            inner = Selection(values, characters, self._late)
            inner.convert(value, nested=False)
            self._pay(values - inner._values_left, characters - inner._characters_left)
            self.converted[name] = inner.converted
            self.missing += [f"{name}.{key}" for key in inner.missing]


def _routing_keys_first(mapping: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    known = [name for name in ROUTING_KEYS if dict.__contains__(mapping, name)]
    yield from ((name, dict.__getitem__(mapping, name)) for name in known)
    yield from ((key, value) for key, value in dict.items(mapping) if not (type(key) is str and key in known))
