"""Services of a local stack, started with other settings than its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from bluesky_prefect.stack._service import Service

# Prefect keeps events for five seconds before it writes them down, and tests ask for them.
EVENTS_AT_ONCE = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.3"}


@contextmanager
def started_with(service: type[Service], settings: dict[str, str]) -> Iterator[None]:
    """Have this process start a service with other settings than the local stack's own."""
    environment = service.environment
    service.environment = lambda one: {**environment(one), **settings}
    try:
        yield
    finally:
        service.environment = environment
