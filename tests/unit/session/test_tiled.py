import json
from contextlib import closing
from http.server import BaseHTTPRequestHandler

import pytest
from bluesky_queueserver.manager.profile_ops import is_device, is_plan
from pydantic import SecretStr

from bluesky_prefect.core import ConfigurationError, Settings, TiledUnavailable
from bluesky_prefect.session._tiled import LazyClient, TiledConnection
from tests.services.loopback import Loopback


def _unavailable() -> None:
    raise TiledUnavailable("Tiled is away")


def test_a_lazy_client_is_the_client_once_it_is_there():
    client = LazyClient(lambda: {"a": 1})

    assert client["a"] == 1
    assert list(client) == ["a"]
    assert len(client) == 1
    assert "a" in client
    assert list(client.keys()) == ["a"]
    assert repr(client) == "{'a': 1}"


def test_a_lazy_client_can_be_looked_at_while_tiled_is_away():
    client = LazyClient(_unavailable)

    assert not hasattr(client, "children")
    assert not hasattr(client, "_repr_html_")
    assert "Tiled is away" in repr(client)


def test_a_lazy_client_is_known_to_be_no_device_without_tiled():
    connected: list[int] = []
    client = LazyClient(lambda: connected.append(1))

    assert not is_device(client)
    assert not is_plan(client)
    assert not connected


def test_a_lazy_client_says_what_is_missing_when_used():
    client = LazyClient(_unavailable)

    with pytest.raises(TiledUnavailable, match="Tiled is away"):
        client["raw"]
    with pytest.raises(AttributeError, match="Tiled is away"):
        client.keys()


def test_a_missing_server_is_named_with_the_way_to_start_it():
    connection = TiledConnection(Settings(tiled_uri="http://user:secret@127.0.0.1:1/?api_key=secret"))

    with pytest.raises(TiledUnavailable, match=r"127\.0\.0\.1:1.*bluesky-prefect up") as caught:
        connection.raw()

    assert "secret" not in str(caught.value)


def test_an_unknown_profile_is_named():
    connection = TiledConnection(Settings(tiled_profile="nobodys"))

    with pytest.raises(ConfigurationError, match="nobodys"):
        connection.root()


class Newest(Loopback):
    """A Tiled server, as far as its newest run is asked for."""

    def __init__(self, content: object) -> None:
        server = self
        self.asked: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


def _found(**metadata: object) -> dict[str, object]:
    return {"data": [{"attributes": {"metadata": {"selected": metadata}}}]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_found(scan_id=41), 41),
        (_found(scan_id="41"), 0),
        (_found(scan_id=2**70), 0),
        (_found(), 0),
        ({"data": []}, 0),
        ("no", 0),
    ],
)
def test_the_newest_scan_id_is_known_without_tiled_s_client(content: object, expected: int):
    with closing(Newest(content)) as server:
        connection = TiledConnection(Settings(tiled_uri=f"http://{server.address}", tiled_api_key=SecretStr("s3cret")))
        assert connection.newest_scan_id() == expected
    [(path, authorization)] = server.asked
    assert path.startswith("/api/v1/search/raw?")
    assert authorization == "Apikey s3cret"


@pytest.mark.parametrize("where", [{"tiled_uri": "http://127.0.0.1:1"}, {"tiled_profile": "local"}, {}])
def test_with_no_tiled_nobody_knows_the_newest_scan_id(where):
    assert TiledConnection(Settings(**where)).newest_scan_id() is None
