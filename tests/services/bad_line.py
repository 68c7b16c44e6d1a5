"""A line between two hosts that is slow, and loses things."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Fate = Literal["arrives", "hangs", "is reset", "answer lost"]
# What follows so soon is the same message: it is under way already.
_BURST_S = 0.05


@dataclass
class BadLine:
    """Delay, throughput and loss of a line; a message is what one side sends before the other one says something.

    Attributes
    ----------
    delay_s, jitter_s : float
        How long a message travels at least, and how much longer at most.
    bytes_per_s : float
        How much it carries, in either direction.
    hangs, resets, loses_answers : float
        Shares of the requests that never arrive, that cut their connection instead of arriving, and that are carried
        out but have their answer lost.
    seed : int
        Decides which.
    met : Counter
        How many requests met which fate.
    """

    delay_s: float = 0.2
    jitter_s: float = 0.1
    bytes_per_s: float = 1_000_000.0
    hangs: float = 0.0
    resets: float = 0.0
    loses_answers: float = 0.0
    seed: int = 1
    met: Counter[Fate] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # Apart, so that the fates are the same however messages fall into pieces.
        self._of_fates, self._of_travel = Random(self.seed), Random(self.seed)

    def travel_s(self, size: int, since_last_s: float) -> float:
        """Return how long so many bytes travel that are sent so long after the last ones."""
        delay_s = self.delay_s + self._of_travel.uniform(0.0, self.jitter_s) if since_last_s > _BURST_S else 0.0
        return delay_s + size / self.bytes_per_s

    def fate(self) -> Fate:
        """Draw what becomes of a request."""
        fates: list[Fate] = ["hangs", "is reset", "answer lost", "arrives"]
        shares = [self.hangs, self.resets, self.loses_answers]
        [drawn] = self._of_fates.choices(fates, [*shares, 1 - sum(shares)])
        self.met[drawn] += 1
        return drawn
