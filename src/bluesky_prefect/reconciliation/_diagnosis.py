"""Diagnosis of a run's workflow: its state, and whether to start it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile

from bluesky_prefect.core import Settings
from bluesky_prefect.prefect_api import PastFlowRun, SignsOfLife

# Each rerun after the second waits so many times longer than the one before it.
_LONGER = 4.0
# A flow run that has never sent a heartbeat may be one that does not send any: be so many times more patient.
_WITHOUT_HEARTBEATS = 6.0


class RunState(StrEnum):
    """State of a run's workflow; people read the value."""

    PROCESSED = "processed"
    UNDER_WAY = "under way"
    CANCELLED = "cancelled"
    SETTLING = "just stopped"
    OPEN = "not stopped yet"
    MISSING = "no flow run"
    WAITING = "waiting in the outbox"
    ELSEWHERE = "at another server"
    DEAD = "dead letter"
    UNDECIDED = "undecided"
    NOT_WANTED = "not wanted"
    BEFORE_LISTED = "before it was listed"
    OTHER_NAME = "started under another name"
    CRASHED = "crashed"
    FAILED = "failed"
    SILENT = "no sign of life"
    ABANDONED = "its worker is gone"
    STUCK = "pending too long"
    LATE = "late"
    QUEUED = "waiting in its queue"
    GIVEN_UP = "given up"
    NO_STOP = "no stop document"
    NOT_IN_TILED = "not in Tiled"

    @property
    def is_problem(self) -> bool:
        """True if somebody, or something, has to do something about it."""
        return self not in _FINE


_FINE = {
    RunState.PROCESSED,
    RunState.UNDER_WAY,
    RunState.QUEUED,
    RunState.CANCELLED,
    RunState.SETTLING,
    RunState.OPEN,
    RunState.NOT_WANTED,
    RunState.BEFORE_LISTED,
}


@dataclass(frozen=True)
class Diagnosis:
    """A state with its reason, and what may be done about it.

    Attributes
    ----------
    state : RunState
        What became of it.
    since : float
        Since when, in seconds since the epoch.
    reason : str
        In words, as far as known.
    next_generation : int or None
        The generation of the flow run to be made, if one may be made by itself; None if not.
    not_before : float
        When that may be done at the earliest, in seconds since the epoch, if nobody asks for it in person.
    ended : PastFlowRun or None
        The flow run that has to be ended first, so that it does not go on beside the next one.
    signs : SignsOfLife or None
        What was last heard of it, if its silence counts.
    """

    state: RunState
    since: float
    reason: str = ""
    next_generation: int | None = None
    not_before: float = 0.0
    ended: PastFlowRun | None = None
    signs: SignsOfLife | None = None


def diagnose(
    flow_runs: Sequence[PastFlowRun],
    *,
    stopped: float,
    now: float,
    settings: Settings,
    signs_of_life: Callable[[PastFlowRun], SignsOfLife],
    worker_is_gone: Callable[[PastFlowRun], bool],
    reason_to_wait: Callable[[PastFlowRun], str],
) -> Diagnosis:
    """Diagnose the flow runs of one run and workflow, in the order of their generations: the last one counts.

    Parameters
    ----------
    stopped, now : float
        When the run stopped, and the present time by the server's clock, in seconds since the epoch.
    settings : Settings
        How long is too long.
    signs_of_life, worker_is_gone, reason_to_wait : callable
        Asked for flow runs that have been running, pending, or scheduled for long; see `Workers`.
    """
    if not flow_runs:
        # By a clock that is ahead it stopped in the future. Further ahead than we wait, it is not waited for: the key
        # of the first flow run finds the one that its session may be about to make.
        state = RunState.SETTLING if abs(now - stopped) < settings.settle_s else RunState.MISSING
        return Diagnosis(state, stopped, next_generation=None if state is RunState.SETTLING else 0)
    last = flow_runs[-1]
    waited = now - last.changed
    match last.state_type:
        case "COMPLETED":
            return Diagnosis(RunState.PROCESSED, last.changed, last.message)
        case "CANCELLED" | "CANCELLING":
            return Diagnosis(RunState.CANCELLED, last.changed, last.message)
        case "CRASHED":
            return _again(RunState.CRASHED, flow_runs, settings)
        case "FAILED":
            return _again(RunState.FAILED, flow_runs, settings)
        case "PENDING" if waited > settings.stuck_after_s:
            return _pending(flow_runs, settings, worker_is_gone(last))
        case "SCHEDULED" if waited > settings.stuck_after_s:
            if reason := reason_to_wait(last):
                return Diagnosis(RunState.QUEUED, last.changed, reason)
            return Diagnosis(RunState.LATE, last.changed, "no worker takes it")
        case "RUNNING" if waited > settings.heartbeat_timeout_s:
            return _running(flow_runs, now, settings, signs_of_life(last))
    return Diagnosis(RunState.UNDER_WAY, last.changed, last.state)


def _pending(flow_runs: Sequence[PastFlowRun], settings: Settings, worker_is_gone: bool) -> Diagnosis:
    last = flow_runs[-1]
    if worker_is_gone:
        reason = "its worker took it and is gone"
        return _again(RunState.ABANDONED, flow_runs, settings, ended=last, reason=reason)
    # It may only be late: an image is being pulled, a queue is long. Another one would be late as well.
    return Diagnosis(RunState.STUCK, last.changed, "its worker took it, but its process has not started yet")


def _running(flow_runs: Sequence[PastFlowRun], now: float, settings: Settings, signs: SignsOfLife) -> Diagnosis:
    last = flow_runs[-1]
    heard = max(last.changed, signs.last or 0.0)
    patience_s = settings.heartbeat_timeout_s * (1.0 if signs.heartbeats else _WITHOUT_HEARTBEATS)
    if now - heard <= patience_s:
        return Diagnosis(RunState.UNDER_WAY, last.changed, last.state)
    reason = f"its state is running, but its last sign of life was {(now - heard) / 60:.0f} min ago"
    return replace(_again(RunState.SILENT, flow_runs, settings, since=heard, ended=last, reason=reason), signs=signs)


def _again(
    state: RunState,
    flow_runs: Sequence[PastFlowRun],
    settings: Settings,
    *,
    since: float | None = None,
    ended: PastFlowRun | None = None,
    reason: str | None = None,
) -> Diagnosis:
    """Diagnose a workflow that did not succeed, and may be started again `max_reruns` times."""
    last = flow_runs[-1]
    since = last.changed if since is None else since
    reason = last.message if reason is None else reason
    before = takewhile(lambda one: one.failed, reversed(flow_runs[:-1]))
    tries = 1 + sum(1 for _ in before)
    if state is RunState.FAILED and not settings.rerun_failed:
        return Diagnosis(state, since, reason)
    if tries > settings.max_reruns:
        return Diagnosis(RunState.GIVEN_UP, since, f"{state} {tries} times; last: {reason}", ended=ended)
    wait_s = 0.0 if tries == 1 else settings.rerun_backoff_s * _LONGER ** (tries - 2)
    return Diagnosis(
        state,
        since,
        reason,
        next_generation=last.generation + 1,
        # The server's clock is known to a second: at once is at once.
        not_before=since + wait_s if wait_s else 0.0,
        ended=ended,
    )
