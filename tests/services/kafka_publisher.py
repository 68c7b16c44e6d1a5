"""A session that publishes its runs to Kafka as beamlines do: an order a line, answered with a line.

``scan`` takes a run, ``begin`` a run up to its last event, ``end`` finishes it; the answer is the run's uid. ``send``
followed by anything publishes that text.
"""

import sys
from typing import Any

from bluesky_kafka import Publisher
from event_model import compose_run


def main(server: str, topic: str) -> None:
    """Carry out orders."""
    publisher = Publisher(topic, server, key="a-beamline", flush_on_stop_doc=True)
    begun: Any = None
    for number, line in enumerate(sys.stdin):
        order, _, text = line.rstrip("\n").partition(" ")
        if order == "send":
            publisher._producer.produce(topic, text.encode())
            publisher._producer.flush()
            print("sent", flush=True)
            continue
        if order in ("scan", "begin"):
            begun = compose_run(metadata={"scan_id": number, "plan_name": "count"})
            publisher("start", begun.start_doc)
            described = begun.compose_descriptor(
                name="primary", data_keys={"x": {"dtype": "number", "shape": [], "source": "sim"}}
            )
            publisher("descriptor", described.descriptor_doc)
            publisher("event", described.compose_event(data={"x": 1.0}, timestamps={"x": 1.0}))
            publisher.flush()
        if order in ("scan", "end"):
            publisher("stop", begun.compose_stop())
        print(begun.start_doc["uid"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
