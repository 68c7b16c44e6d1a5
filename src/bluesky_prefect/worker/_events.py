"""Prefect's event stream, as far as it concerns a worker."""

import logging
from collections.abc import Callable
from uuid import UUID

import anyio
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.events.schemas.events import Event

logger = logging.getLogger(f"prefect.{__name__}")

_FLOW_RUN = "prefect.flow-run."
_CANCELLING = f"{_FLOW_RUN}Cancelling"
# The states in which a flow run waits for a worker.
_WAITING = [f"{_FLOW_RUN}{name}" for name in ("Scheduled", "AwaitingRetry", "Resuming", "AwaitingConcurrencySlot")]
# Waits between two tries to subscribe, while polling goes on; where web sockets are refused, that is all the time.
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


class FlowRunEvents:
    """Listen for flow runs of a work pool that wait for a worker, or are to be cancelled.

    Parameters
    ----------
    on_connected, on_waiting : callable
        Called when the stream begins, also again after it was lost, and for each flow run that waits.
    on_cancelling : callable
        Called with the id of a flow run that is to be cancelled.

    Attributes
    ----------
    connected : bool
        True while events come in.
    """

    def __init__(
        self,
        *,
        on_connected: Callable[[], None],
        on_waiting: Callable[[], None],
        on_cancelling: Callable[[UUID], None],
    ) -> None:
        self.connected = False
        self._on_connected = on_connected
        self._on_waiting = on_waiting
        self._on_cancelling = on_cancelling

    async def listen(self, work_pool: UUID) -> None:
        """Listen, and connect again as often as it takes."""
        wait_s = _FIRST_WAIT_S
        events = EventFilter(
            event=EventNameFilter(name=[*_WAITING, _CANCELLING]),
            any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{work_pool}"]),
        )
        while True:
            try:
                async with get_events_subscriber(filter=events, reconnection_attempts=0) as subscriber:
                    wait_s = _FIRST_WAIT_S
                    self.connected = True
                    self._on_connected()
                    async for event in subscriber:
                        self._received(event)
            except Exception as error:  # noqa: BLE001  # whatever it is: polling goes on, and it is tried again
                logger.debug("No event stream, going on with polling: %r", error)
            finally:
                self.connected = False
            await anyio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _received(self, event: Event) -> None:
        if event.event == _CANCELLING:
            self._on_cancelling(UUID(event.resource.id.removeprefix(_FLOW_RUN)))
        else:
            self._on_waiting()
