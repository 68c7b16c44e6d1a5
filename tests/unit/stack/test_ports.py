"""Ports and their owners, with real sockets."""

import os
import socket

import pytest

from bluesky_prefect.exceptions import StackError
from bluesky_prefect.stack.ports import choose_port, is_free

WORDS = {"service": "Tiled server", "option": "--tiled-port", "variable": "BLUESKY_PREFECT_TILED_PORT"}


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def busy_port(request):
    with socket.socket() as server:
        server.bind((request.param, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_busy_port_is_an_error_that_names_port_owner_and_option(busy_port):
    with pytest.raises(StackError) as caught:
        choose_port(busy_port, None, **WORDS)
    for word in (f"Port {busy_port}", "Tiled server", f"process {os.getpid()} (", *list(WORDS.values())[1:]):
        assert word in str(caught.value)


def test_a_free_port_is_taken_as_wanted():
    port = choose_port(0, None, **WORDS)
    assert choose_port(port, None, **WORDS) == port


def test_zero_takes_the_last_port_again_so_that_addresses_stay():
    last = choose_port(0, None, **WORDS)
    assert choose_port(0, last, **WORDS) == last


def test_zero_takes_another_port_if_the_last_one_is_busy(busy_port):
    port = choose_port(0, busy_port, **WORDS)
    assert port != busy_port
    assert is_free(port)


def test_a_port_whose_connections_have_just_ended_is_free():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first is left in TIME_WAIT
        client.close()
    assert is_free(port)
