"""The flow runs that a worker has in hand, and the part of its way on which each of them is."""

import asyncio
import datetime
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from bluesky_prefect.worker._execution import Execution

# How many are remembered after their end: for a list of scheduled flow runs that was made before, and for one that is
# cancelled while it waits for its next attempt.
MAX_ENDED = 200


class Phase(enum.Enum):
    """A part of a flow run's way, each with what it begins with."""

    PENDING = "Prefect is asked to make it pending"
    EXECUTING = "its job is known, and it gets a process"
    CANCELLING = "its process is told to end"
    SETTLING = "it is cancelled and its process has ended, and its hooks run in another"
    CRASHED = "its process has failed, and the base class reports that"
    CRASH_HOOKS = "that is reported, and its hooks run in another process"
    ENDED = "nothing of it is left here"


_BUSY = (Phase.EXECUTING, Phase.CANCELLING, Phase.SETTLING, Phase.CRASH_HOOKS)


@dataclass(eq=False)
class FlowRunInHand:
    """What a worker knows of a flow run that it has taken.

    Attributes
    ----------
    proposal : Future, optional
        Prefect's answer to the proposal to make it pending.
    state_id : UUID, optional
        The scheduled state in which it was taken.
    since : datetime, optional
        When it became pending, by Prefect's clock.
    execution : Execution, optional
        Its processes, if they are forked.
    again : bool
        True if it was scheduled again, to be retried or resumed, before all of it had ended here.
    """

    id: UUID
    phase: Phase = Phase.PENDING
    proposal: asyncio.Future[Any] | None = None
    state_id: UUID | None = None
    since: datetime.datetime | None = None
    execution: "Execution | None" = None
    again: bool = False

    @property
    def cancelled(self) -> bool:
        """True from its cancellation to its end."""
        return self.phase in (Phase.CANCELLING, Phase.SETTLING)


class FlowRunsInHand:
    """All flow runs that a worker has in hand, and those that it had a moment ago.

    Parameters
    ----------
    on_ended : callable
        Called with each flow run that has ended here.
    """

    def __init__(self, on_ended: Callable[[FlowRunInHand], None]) -> None:
        self._all: dict[UUID, FlowRunInHand] = {}
        self._on_ended = on_ended

    def is_busy(self, flow_run_id: UUID) -> bool:
        """Return whether a process of a flow run, or of its hooks, may be there."""
        return (one := self._all.get(flow_run_id)) is not None and one.phase in _BUSY

    def is_again(self, flow_run_id: UUID) -> bool:
        """Return whether a flow run was scheduled again while it was busy."""
        return (one := self._all.get(flow_run_id)) is not None and one.again

    def all_in(self, *phases: Phase) -> list[FlowRunInHand]:
        """Return all that are in one of these phases."""
        return [one for one in self._all.values() if one.phase in phases]

    def may_take(self, flow_run: "FlowRun") -> bool:
        """Return whether a flow run on a list of scheduled ones may be taken; one that is busy is noted for later."""
        one = self._all.get(flow_run.id)
        if one is None:
            return True
        if one.state_id == flow_run.state_id:
            return False  # the list was made before it was taken
        one.again |= one.phase in _BUSY
        return one.phase not in _BUSY

    def propose(self, flow_run_id: UUID, proposal: asyncio.Future[Any]) -> None:
        """Take note that Prefect is asked to make a flow run pending."""
        self._all[flow_run_id] = FlowRunInHand(flow_run_id, proposal=proposal)

    def accept(self, flow_run_id: UUID, since: datetime.datetime) -> None:
        """Take note that a flow run is pending, by Prefect's clock."""
        if (one := self._all.get(flow_run_id)) and one.phase is Phase.PENDING:
            one.since = since

    def withdraw(self, flow_run_id: UUID) -> None:
        """Forget a flow run that has not become pending, or has another state before it has begun."""
        if (one := self._all.get(flow_run_id)) and one.phase is Phase.PENDING:
            del self._all[flow_run_id]

    def begin(self, flow_run: "FlowRun", execution: "Execution | None") -> FlowRunInHand:
        """Take note that a flow run is executed from here on."""
        before = self._all.get(flow_run.id)
        one = self._all[flow_run.id] = FlowRunInHand(flow_run.id, Phase.EXECUTING, execution=execution)
        one.state_id = flow_run.state_id
        if before is not None and before.phase is Phase.PENDING:
            one.since = before.since
        return one

    def cancel(self, flow_run_id: UUID, at: datetime.datetime | None = None) -> FlowRunInHand | None:
        """Take note of a cancellation, and return the flow run if it executes, or if it has ended.

        One from before the flow run was pending concerned an earlier attempt.
        """
        one = self._all.get(flow_run_id)
        if one is None or one.execution is None or one.phase not in (Phase.EXECUTING, Phase.ENDED):
            return None
        if at and one.since and at < one.since:
            return None
        if one.phase is Phase.EXECUTING:
            one.phase = Phase.CANCELLING
        return one

    def report_crash(self, flow_run_id: UUID, accepted: bool) -> FlowRunInHand | None:
        """Take note of Prefect's answer to a crash, and return the flow run if its hooks are to run."""
        one = self._all.get(flow_run_id)
        if one is None or one.phase is not Phase.CRASHED:
            return None
        one.phase = Phase.CRASH_HOOKS if accepted else Phase.ENDED
        return one if accepted else None

    def end(self, one: FlowRunInHand) -> None:
        """Take note that nothing of a flow run is left here; a crash is still to be reported."""
        if one.phase is not Phase.CRASHED:
            one.phase = Phase.ENDED
        # The order is that in which they ended.
        self._all[one.id] = self._all.pop(one.id, one)
        for old in self.all_in(Phase.ENDED)[:-MAX_ENDED]:
            del self._all[old.id]
        self._on_ended(one)
