"""Who is let into a Tiled server, and what is said to all others."""

from types import SimpleNamespace

import pytest

from bluesky_prefect.core import ConfigurationError
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
