"""Who is let into a Tiled server, and what is said to all others."""

from types import SimpleNamespace

import httpx
import pytest

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.tiled_api import _connect
from bluesky_prefect.tiled_api._connect import address_and_key, require_login


def test_tiled_s_key_in_its_address_is_a_key_and_one_that_is_set_wins():
    address = "http://ada:pw@host:8000/?api_key=in-the-address"
    assert address_and_key(address, None) == ("http://host:8000/", "in-the-address")
    assert address_and_key(address, "set") == ("http://host:8000/", "set")
    assert address_and_key("http://host:8000", None) == ("http://host:8000", None)


def _context(*, authenticated=False, required=True, providers=(), cached=False):
    authentication = SimpleNamespace(required=required, providers=providers)
    return SimpleNamespace(
        authenticated=authenticated,
        server_info=SimpleNamespace(authentication=authentication),
        use_cached_tokens=lambda: cached,
    )


@pytest.mark.parametrize(
    "context", [_context(authenticated=True), _context(required=False), _context(providers=("any",), cached=True)]
)
def test_whoever_is_let_in_is_let_in(context):
    require_login(context, "http://host", key_given=False, setting="A_KEY")


@pytest.mark.parametrize(
    ("context", "key_given", "remedy"),
    [
        (_context(), False, "wants an API key: set A_KEY"),
        (_context(providers=("any",)), False, "tiled login"),
        (_context(), True, "refuses the API key: check A_KEY"),
    ],
)
def test_a_refused_connection_names_the_setting_and_asks_for_no_password(context, key_given, remedy):
    with pytest.raises(ConfigurationError, match=remedy):
        require_login(context, "http://host", key_given=key_given, setting="A_KEY")


@pytest.mark.parametrize(
    ("asked", "waits"), [("86400", 60.0), ("inf", 60.0), ("nan", 60.0), ("-5", 0.0), ("2.5", 2.5), ("tomorrow", True)]
)
def test_a_server_that_asks_for_a_long_wait_is_asked_again_after_the_longest(asked, waits):
    from tiled.client.utils import handle_error, should_retry

    answer = httpx.MockTransport(lambda _: httpx.Response(429, headers={"Retry-After": asked}))
    with httpx.Client(transport=answer) as client:
        _connect._with_bounded_waits(SimpleNamespace(context=SimpleNamespace(http_client=client)), 60.0)
        with pytest.raises(httpx.HTTPStatusError) as caught:
            handle_error(client.get("http://tiled/api/v1/"))
    assert should_retry(caught.value) == waits
