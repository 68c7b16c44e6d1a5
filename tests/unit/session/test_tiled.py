import pytest

from bluesky_prefect.core import ConfigurationError, Settings, TiledUnavailable
from bluesky_prefect.session._tiled import LazyClient, TiledConnection


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
