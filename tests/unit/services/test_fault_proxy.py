"""A proxy that does not misbehave as it says would make every fault look harmless."""

import contextlib
import gc
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.services.bad_line import BadLine
from tests.services.fault_proxy import FaultProxy


class Server(ThreadingHTTPServer):
    """Counts what reaches it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    proxy = FaultProxy(server.server_address[1])
    yield proxy
    proxy.close()


@pytest.fixture
def client(proxy):
    with httpx.Client(base_url=proxy.url, timeout=1) as client:
        yield client


def test_what_passes_is_unchanged(client, server):
    body = b"x" * 1_000_000
    assert [client.post("/a", content=body).content == body for _ in range(3)] == [True] * 3
    assert server.asked == ["/a"] * 3


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_an_answer_of_trouble_does_not_come_from_the_server(client, proxy, server, status):
    client.post("/before", content=b"")
    proxy.mode = status
    assert client.post("/a", content=b"x" * 100_000).status_code == int(status)
    assert server.asked == ["/before"]


def test_nobody_listens_while_it_refuses_and_the_port_stays_the_same(client, proxy, server):
    port = proxy.port
    proxy.mode = "refuse"
    with pytest.raises(httpx.ConnectError):
        client.post("/a", content=b"")
    proxy.mode = "pass"
    assert proxy.port == port
    assert client.post("/b", content=b"").status_code == 200
    assert server.asked == ["/b"]


def test_a_black_hole_swallows_open_connections_and_new_ones(client, proxy, server):
    client.post("/before", content=b"")
    proxy.mode = "black-hole"
    for _ in range(2):  # the first on the connection that is open, the second on a new one
        with pytest.raises(httpx.ReadTimeout):
            client.post("/a", content=b"", timeout=0.2)
    assert server.asked == ["/before"]


def test_each_answer_is_slow(client, proxy, monkeypatch):
    monkeypatch.setattr("tests.services.fault_proxy._SLOW_S", 0.2)
    proxy.mode = "slow"
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            client.post("/a", content=b"", timeout=0.1)
        assert client.post("/a", content=b"").elapsed.total_seconds() > 0.2


def test_a_lost_answer_was_given(client, proxy, server):
    proxy.mode = "lose-answer"
    assert client.post("/deployments", content=b"").status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/deployments/1/create_flow_run", content=b"")
    assert server.asked == ["/deployments", "/deployments/1/create_flow_run"]


def test_a_server_that_is_away_is_a_connection_that_ends(client, proxy):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy._target = free.getsockname()[1]
    with pytest.raises(httpx.TransportError):
        client.post("/a", content=b"")


def test_connections_that_are_cut_as_they_come_are_closed(proxy):
    for _ in range(30):
        clients = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(3)]
        proxy.mode = "refuse"
        proxy.mode = "pass"
        for client in clients:
            client.close()
    gc.collect()  # what nobody closed warns here, and pytest makes an error of it


def test_on_a_slow_line_what_passes_is_unchanged_and_takes_its_time_both_ways(client, proxy, server):
    proxy.line = BadLine(0.1, 0.0, bytes_per_s=1_000_000)
    body = b"x" * 200_000
    for _ in range(2):
        answer = client.post("/a", content=body, timeout=10)
        assert answer.content == body
        assert answer.elapsed.total_seconds() > 0.2 + 0.4
    assert server.asked == ["/a"] * 2


@pytest.mark.parametrize(
    ("share", "error", "arrived"),
    [
        ("hangs", httpx.ReadTimeout, []),
        ("resets", httpx.NetworkError, []),
        ("loses_answers", httpx.NetworkError, ["/a"]),
    ],
)
def test_a_line_loses_what_it_says(client, proxy, server, share, error, arrived):
    proxy.line = BadLine(0.0, 0.0, **{share: 1.0})
    with pytest.raises((error, httpx.RemoteProtocolError)):
        client.post("/a", content=b"x", timeout=0.5)
    assert server.asked == arrived
    proxy.line = None
    assert client.post("/b", content=b"").status_code == 200


def test_a_line_loses_some_and_says_how_many(client, proxy, server):
    proxy.line = BadLine(0.0, 0.0, resets=0.2, loses_answers=0.2)
    answered = 0
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            answered += client.post("/a", content=b"").is_success
    assert answered == proxy.line.met["arrives"]
    assert len(server.asked) == answered + proxy.line.met["answer lost"]
    assert min(proxy.line.met.values()) > 5
