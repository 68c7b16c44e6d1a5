"""Addresses that carry credentials: what is taken out of them, and what opens the door."""

from types import SimpleNamespace

import pytest

from bluesky_prefect.core import (
    UNREADABLE_URL,
    ConfigurationError,
    require_tiled_login,
    tiled_address,
    user_in_url,
    without_secrets,
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host:8000", "http://host:8000"),
        ("https://host/tiled/", "https://host/tiled"),
        ("https://ada:p%40ss@host:8000/api?api_key=s3cret#s3cret", "https://host:8000/api"),
        ("http://ada:p@ss@[::1]:8000/api", "http://[::1]:8000/api"),
        ("http://ada:s3cret@[::1", UNREADABLE_URL),
        ("http://ada:geh/eim@host:4200/api", UNREADABLE_URL),
        ("http://ada:geh#eim@host:4200/api", UNREADABLE_URL),
        ("http://ada:geh?eim@host:4200/api", UNREADABLE_URL),
        ("http://ada:12/34@host:4200/api", UNREADABLE_URL),
        ("http://ada:p@geh/eim@host:4200/api", UNREADABLE_URL),
        ("http://ada:geh", UNREADABLE_URL),
        ("ada:s3cret@host:4200/api", UNREADABLE_URL),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address, shown):
    assert without_secrets(address) == shown


def test_user_and_password_of_an_address_are_unquoted():
    assert user_in_url("http://ada:p%40ss%2F@host") == "ada:p@ss/"
    assert user_in_url("http://host/@home") == ""
    assert user_in_url("http://ada:geh/eim@host") == ""
    assert user_in_url("http://ada:s3cret@[::1") == ""


def test_tiled_s_key_in_its_address_is_a_key_and_one_that_is_set_wins():
    address = "http://ada:pw@host:8000/?api_key=in-the-address"
    assert tiled_address(address, None) == ("http://host:8000/", "in-the-address")
    assert tiled_address(address, "set") == ("http://host:8000/", "set")
    assert tiled_address("http://host:8000", None) == ("http://host:8000", None)


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
    require_tiled_login(context, "http://host", key_given=False)


@pytest.mark.parametrize(
    ("context", "key_given", "remedy"),
    [
        (_context(), False, "wants an API key: set A_KEY"),
        (_context(providers=("any",)), False, "tiled login"),
        (_context(), True, "refuses the API key: check A_KEY"),
    ],
)
def test_whoever_is_not_is_told_which_setting_to_change_and_asked_for_no_password(context, key_given, remedy):
    with pytest.raises(ConfigurationError, match=remedy):
        require_tiled_login(context, "http://host", key_given=key_given, setting="A_KEY")
