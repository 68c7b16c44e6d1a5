"""Waits after a trouble that one submission has, while Prefect is well otherwise."""

from collections.abc import Callable
from dataclasses import dataclass

from bluesky_prefect.core import PrefectUnavailable, Settings
from bluesky_prefect.courier._backoff import growing_waits
from bluesky_prefect.outbox import Entry

# What others of its deployment may be held up by one submission, for the sake of their order.
MOMENT_S = 1.0
# After this many different submissions of a deployment in a row, the trouble is the deployment's: a server whose
# database takes no more, say, which others would only keep busy.
_DIFFERENT = 3
# A server that is busy (429, 503) is as a rule so for all; to a submission that alone meets it, it is so about half a
# minute of waits later, or when it has come as late as it was asked to.
_BUSY_BEFORE, _BUSY_AS_ASKED = 8, 2
# An attempt that hangs keeps all others waiting: it is made again after this many times as long.
_REST = 5
# Another clock says when a submission in the outbox is due.
_SLACK_S = 0.02
_REMEMBERED = 10_000
_GROWS_UNTIL = 20


@dataclass(frozen=True)
class Wait:
    """A submission's wait before its next attempt.

    Attributes
    ----------
    delay_s : float
        How long, in seconds.
    aside : bool
        Whether those behind it in its deployment go on meanwhile.
    first : bool
        Whether it stands aside for the first time.
    """

    delay_s: float
    aside: bool
    first: bool


class SubmissionBackoff:
    """Waits after troubles of single submissions.

    A submission keeps its place for the first attempts, as long as that holds up its deployment for no more than
    `MOMENT_S`, and stands aside then. One that is told to come later keeps its place longer: servers are seldom busy
    for one alone. Where different ones of a deployment fail one after the other, with no success between, the
    deployment itself is tried ever more rarely. Other deployments are not concerned.

    The clock gives a time in seconds that never jumps.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._max_s = settings.retry_max_s
        self._wait_s = growing_waits(settings)
        self._clock = clock
        # By keys of submissions: answers that it is busy, troubles of their own, and that they have stood aside.
        self._busy: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._aside: dict[str, int] = {}
        # By deployments: which failed since the last success, and when to go on.
        self._in_a_row: dict[str, set[str]] = {}
        self._not_before: dict[str, float] = {}

    def failed(self, entry: Entry, took_s: float, error: PrefectUnavailable | None = None) -> Wait:
        """Take note of an attempt that failed for a trouble of the submission's own; return how it waits.

        `took_s` is how long the attempt took, in seconds, and `error` what Prefect has answered, if it has.
        """
        asked_s = error.retry_after_s or 0.0 if error else 0.0
        wanted_s = max(self._wait_s(_count(self._failures, entry.key)), took_s * _REST, asked_s)
        delay_s = min(wanted_s, self._max_s)
        if error and error.busy:
            aside = _count(self._busy, entry.key) >= (_BUSY_AS_ASKED if asked_s else _BUSY_BEFORE)
        else:
            aside = delay_s + took_s > MOMENT_S
        first = aside and entry.key not in self._aside
        if aside:
            _count(self._aside, entry.key)
        self._hold(entry, 0.0 if aside else delay_s)
        return Wait(delay_s, aside, first)

    def succeeded(self, entry: Entry) -> None:
        """Take note of a submission that Prefect accepted."""
        for known in (self._busy, self._failures, self._aside):
            known.pop(entry.key, None)
        self._in_a_row.pop(entry.deployment, None)
        self._not_before.pop(entry.deployment, None)

    @property
    def busy(self) -> bool:
        """True if Prefect has told a submission to come later that keeps its place."""
        return bool(self._busy.keys() - self._aside.keys())

    @property
    def held(self) -> set[str]:
        """The deployments that are not to be tried now."""
        now = self._clock()
        return {name for name, time in self._not_before.items() if time > now}

    def next_s(self) -> float:
        """Return how long it is until one of them may be tried, in seconds; infinity if there is none."""
        now = self._clock()
        return min((time - now for time in self._not_before.values() if time > now), default=float("inf"))

    def _hold(self, entry: Entry, delay_s: float) -> None:
        """Have the deployment wait as long as its submission keeps its place, or as often as different ones failed."""
        failed = self._in_a_row.setdefault(entry.deployment, set())
        if len(failed) < _GROWS_UNTIL:
            failed.add(entry.key)
        if len(failed) >= _DIFFERENT:
            delay_s = max(delay_s, self._wait_s(len(failed) - _DIFFERENT + 1))
        if delay_s:
            self._not_before[entry.deployment] = self._clock() + delay_s + _SLACK_S


def _count(counts: dict[str, int], key: str) -> int:
    """Count one more; forget what is long ago, rather than remember without end."""
    counts[key] = counts.pop(key, 0) + 1
    if len(counts) > _REMEMBERED:
        del counts[next(iter(counts))]
    return counts[key]
