"""Addresses that carry credentials: what is taken out of them, and what opens the door."""

import pytest

from bluesky_prefect.core import (
    UNREADABLE_URL,
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
