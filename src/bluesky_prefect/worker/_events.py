"""Prefect's event stream, as far as it concerns a worker."""

import datetime
import logging
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple
from uuid import UUID

import anyio
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

logger = logging.getLogger(f"prefect.{__name__}")

_FLOW_RUN = "prefect.flow-run."
_CANCELLING = f"{_FLOW_RUN}Cancelling"
# The states in which a flow run waits for a worker.
_WAITING = [f"{_FLOW_RUN}{name}" for name in ("Scheduled", "AwaitingRetry", "Resuming", "AwaitingConcurrencySlot")]
# Waits between two tries to subscribe; the longest is how often Prefect's process worker asks for cancelled flow runs.
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 10.0


class Event(NamedTuple):
    """A flow run waits for a worker, or is to be cancelled; or the stream has begun, or is not there."""

    what: Literal["waiting", "cancelling", "connected", "silence"]
    flow_run_id: UUID | None = None
    at: datetime.datetime | None = None
    error: Exception | None = None


async def flow_run_events(work_pool: UUID) -> AsyncIterator[Event]:
    """Listen to what happens in a work pool, and connect again as often as it takes."""
    wait_s = _FIRST_WAIT_S
    wanted = EventFilter(
        event=EventNameFilter(name=[*_WAITING, _CANCELLING]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{work_pool}"]),
    )
    while True:
        trouble = None
        try:
            async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as events:
                wait_s = _FIRST_WAIT_S
                yield Event("connected")
                async for event in events:
                    what = "cancelling" if event.event == _CANCELLING else "waiting"
                    yield Event(what, UUID(event.resource.id.removeprefix(_FLOW_RUN)), event.occurred)
        except Exception as error:  # noqa: BLE001  # whatever it is: polling goes on, and it is tried again
            logger.debug("No event stream, going on with polling: %r", error)
            trouble = error
        yield Event("silence", error=trouble)
        await anyio.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
