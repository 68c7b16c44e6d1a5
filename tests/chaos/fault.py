"""What a fault is, and the list of them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.chaos.beamline import Beamline

Inject = Callable[[Beamline, Random, int], None]


@dataclass(frozen=True)
class Fault:
    """One thing that breaks while scans run.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    inject : callable
        Does about so many scans while it breaks something, and returns when that is repaired. Takes the beamline, a
        source of chance, and the number of scans.
    heals : bool
        Whether flow runs crash of it, so that ``bluesky-prefect reconcile`` has to run them again.
    runs : tuple of int
        Fewest and most scans of one injection.
    sqlite : bool
        Whether it strikes the file of Prefect's database, and so needs one.
    """

    name: str
    title: str
    inject: Inject
    heals: bool = False
    runs: tuple[int, int] = (25, 60)
    sqlite: bool = False


FAULTS: dict[str, Fault] = {}


def fault(name: str, title: str, **what: Any) -> Callable[[Inject], Inject]:
    """Add a function to the list of faults, with what else is known of it."""

    def add(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name, title, inject, **what)
        return inject

    return add
