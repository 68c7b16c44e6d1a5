"""A Kafka broker of librdkafka's own, as a process: it prints its address, and runs until its input ends."""

import sys

from confluent_kafka import Producer

if __name__ == "__main__":
    broker = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})
    [address] = broker.list_topics(timeout=30).brokers.values()
    print(f"{address.host}:{address.port}", flush=True)
    sys.stdin.read()
