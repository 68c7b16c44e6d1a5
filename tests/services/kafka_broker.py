"""A Kafka broker of librdkafka's own, as a process: it prints its address, and runs until its input ends.

Lines on stdin: ``down`` has it cut its connections and refuse others, ``up`` ends that; each is answered with itself.
"""

import ctypes
import sys

from confluent_kafka import cimpl

_NUMBER = 1


def main() -> None:
    """Carry out orders."""
    library = ctypes.CDLL(cimpl.__file__)  # and with it librdkafka, whose functions are found through it
    for name, result in {
        "rd_kafka_conf_new": ctypes.c_void_p,
        "rd_kafka_new": ctypes.c_void_p,
        "rd_kafka_mock_cluster_new": ctypes.c_void_p,
        "rd_kafka_mock_cluster_bootstraps": ctypes.c_char_p,
    }.items():
        getattr(library, name).restype = result
    configuration, reason = ctypes.c_void_p(library.rd_kafka_conf_new()), ctypes.create_string_buffer(500)
    room = ctypes.c_size_t(len(reason))
    assert library.rd_kafka_conf_set(configuration, b"log_level", b"0", reason, room) == 0, reason.value
    client = ctypes.c_void_p(library.rd_kafka_new(0, configuration, reason, room))
    assert client, reason.value
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(client, 1))
    print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    orders = {"down": library.rd_kafka_mock_broker_set_down, "up": library.rd_kafka_mock_broker_set_up}
    for line in sys.stdin:
        word = line.strip()
        assert orders[word](cluster, _NUMBER) == 0
        print(word, flush=True)


if __name__ == "__main__":
    main()
