"""Flow runs sent a while ago, followed until they have ended."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bluesky_prefect.prefect_api import FlowRunTimes, is_final

# The newest; those of a backlog that is sent at once are too many to ask for.
MAX_FOLLOWED = 500
# Asked for in one request: each comes with all its parameters.
_AT_ONCE = 50
_FIRST_S = 5.0
# The older one is the more rarely it is asked for: after a quarter of its age. Prefect knows the moments by itself.
_PART_OF_AGE = 0.25


@dataclass
class _Followed:
    deployment: str
    stopped_at: float
    sent_at: float
    due: float
    has_run: bool = False


@dataclass(frozen=True)
class Moment:
    """Something that became of a flow run.

    Attributes
    ----------
    deployment : str
        Its deployment.
    what : {'running', 'ended'}
        Whether it began, or ended.
    state : str
        The state in which it has ended, in lower case, such as ``completed``; else empty.
    after_s : float
        How long that was after the run's stop, in seconds.
    """

    deployment: str
    what: Literal["running", "ended"]
    state: str
    after_s: float


class FollowedFlowRuns:
    """The flow runs that were sent last, and when each is asked for next.

    The clock gives a time in seconds that never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed] = {}

    def add(self, flow_run_id: str, deployment: str, stopped_at: float) -> None:
        """Follow a flow run whose run has stopped at this time, in seconds since the epoch."""
        now = self._clock()
        with self._lock:
            self._followed[flow_run_id] = _Followed(deployment, stopped_at, now, now + _FIRST_S)
            if len(self._followed) > MAX_FOLLOWED:
                del self._followed[next(iter(self._followed))]

    def due(self) -> list[str]:
        """Return the ids of those that are to be asked for now."""
        now = self._clock()
        with self._lock:
            due = [(one.due, flow_run_id) for flow_run_id, one in self._followed.items() if one.due <= now]
        return [flow_run_id for _, flow_run_id in sorted(due)[:_AT_ONCE]]

    def saw(self, asked: Iterable[str], times: Mapping[str, FlowRunTimes]) -> list[Moment]:
        """Take note of an answer, and return what has become of flow runs since the last one.

        Those that have ended, or that Prefect no longer has, are not followed any longer.
        """
        with self._lock:
            return [moment for flow_run_id in asked for moment in self._saw(flow_run_id, times.get(flow_run_id))]

    def _saw(self, flow_run_id: str, found: FlowRunTimes | None) -> Iterator[Moment]:
        one = self._followed.get(flow_run_id)
        if one is None:
            return
        if found is None:
            del self._followed[flow_run_id]
            return
        now = self._clock()
        one.due = now + max(_FIRST_S, _PART_OF_AGE * (now - one.sent_at))
        if found.running is not None and not one.has_run:
            one.has_run = True
            yield Moment(one.deployment, "running", "", found.running - one.stopped_at)
        if is_final(found.state_type) and found.ended is not None:
            del self._followed[flow_run_id]
            yield Moment(one.deployment, "ended", found.state_type.lower(), found.ended - one.stopped_at)
