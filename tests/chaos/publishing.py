"""Ways on which an acquisition's documents get to those that start workflows."""

import os
from collections.abc import Callable, Iterator
from typing import Any

Consumer = Callable[[str, dict[str, Any]], Any]
# Words with spaces between them: ``callback``, ``kafka SERVER TOPIC``, ``zmq ADDRESS``, with semicolons between ways.
VARIABLE = "CHAOS_WAYS"


def consumers(callback: Consumer) -> Iterator[Consumer]:
    """Yield what is to be subscribed, as the environment says; by default the callback."""
    makers: dict[str, Callable[..., Consumer]] = {"callback": lambda: callback, "kafka": _to_kafka, "zmq": _to_zmq}
    for way in filter(None, os.environ.get(VARIABLE, "callback").split(";")):
        kind, *arguments = way.split()
        yield makers[kind](*arguments)


def _to_kafka(server: str, topic: str) -> Consumer:
    """Return a publisher that returns from a stop document once Kafka has all of the run."""
    from bluesky_kafka import Publisher

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            raise RuntimeError(f"Kafka has not taken a document: {error}")

    whole = {"enable.idempotence": True}
    return Publisher(topic, server, "a-beamline", whole, on_delivery=delivered, flush_on_stop_doc=True)


def _to_zmq(address: str) -> Consumer:
    from bluesky.callbacks.zmq import Publisher

    return Publisher(address)
