"""A password in an address reaches no greeting, no log and no outbox, however it is written."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import ValidationError

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import UNREADABLE_URL, ConfigurationError, Submission, get_settings, without_secrets
from bluesky_prefect.courier import Forwarder
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.stack import describe, prefect_service, use_services
from bluesky_prefect.tiled_api import Catalog

# A shorter piece is in any text by chance.
_TELLING = 4
_PRINTABLE = st.characters(min_codepoint=32, exclude_categories=("C", "Z"), include_characters=" ")
_PASSWORDS = st.builds(
    "".join, st.tuples(st.text(_PRINTABLE, min_size=2), st.sampled_from("/#?@[]:% a"), st.text(_PRINTABLE))
)


class _Told(logging.Handler):
    """Takes what is logged here, and by the HTTP client."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


class _Busy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def busy_server() -> Iterator[str]:
    """A server that answers each request, and says 503: so each attempt leaves a reason in the outbox."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Busy)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def told_of(busy_server: str, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """All that a session says of an address with a password: its greeting, its log, and what its outbox holds."""
    told, environment = _Told(), dict(os.environ)
    loggers = [logging.getLogger(name) for name in ("bluesky_prefect", "httpx")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(told)
        one.setLevel(logging.DEBUG)

    def told_of(password: str) -> str:
        told.lines.clear()
        url = f"http://ada:{password}@{busy_server}/api"
        os.environ.update(
            PREFECT_API_URL=url,
            PREFECT_HOME=str(tmp_path),
            BLUESKY_PREFECT_TILED_URI=url,
            BLUESKY_PREFECT_STATE_DIRECTORY=str(tmp_path / "state"),
        )
        os.environ.pop("PREFECT_API_AUTH_STRING", None)
        get_settings.cache_clear()
        settings = use_services()
        tiled = TiledConnection(settings)
        said = [describe([prefect_service()]), tiled.url, tiled.problem()]
        if tiled.url == UNREADABLE_URL:  # at any other, Tiled's client would ask again for seconds
            with pytest.raises(ConfigurationError) as refused:
                Catalog.connect(settings)
            said.append(str(refused.value))
        reasons = []
        # Also as the setting of somebody who starts through no session of ours: with the user still in it.
        for changes in ({}, {PREFECT_API_URL: url}):
            with suppress(ValidationError), temporary_settings(changes):  # Prefect itself refuses some of them
                reasons.append(_reason(settings))
        return "\n".join([*said, *reasons, *told.lines])

    yield told_of
    for one, level in zip(loggers, levels, strict=True):
        one.removeHandler(told)
        one.setLevel(level)
    os.environ.clear()
    os.environ.update(environment)
    get_settings.cache_clear()


@pytest.fixture
def usual(told_of) -> str:
    """What is told of any password: a fragment may stand in it by chance."""
    return told_of("x") + told_of("x/x") + told_of("x%")


def _reason(settings: Settings) -> str:
    """What an outbox says of a submission after an attempt to send it."""
    outbox = Outbox(None)
    outbox.put(Submission("key", "workflow", "flow/one", "uid"))
    forwarder = Forwarder([outbox], settings)
    forwarder.step()
    forwarder._resources.close()
    [entry] = outbox.entries()
    outbox.close()
    assert entry.reason
    return entry.reason


@pytest.mark.parametrize(
    "password", ["geh/eim", "geh#eim", "geh?eim", "geh@eim", "geh:eim", "p[ss", "geh\u2100eim", "1/2@3"]
)
def test_no_piece_of_a_password_is_told(told_of, password):
    text = told_of(password)
    assert not {piece for piece in ("geh", "eim", "p[ss") if piece in text}
    assert "1/2" not in text


def test_an_address_that_cannot_be_read_is_told_with_how_to_write_it(told_of):
    text = told_of("geh/eim")
    assert "No Prefect (Prefect: an address that cannot be read: write http://host:port/path" in text
    assert "%2F stands for '/'" in text
    assert "PREFECT_API_URL holds an address that cannot be read" in text
    assert "BLUESKY_PREFECT_TILED_URI holds an address that cannot be read" in text


@settings(max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(password=_PASSWORDS)
def test_no_fragment_of_any_printable_password_is_told(told_of, usual, password):
    text = told_of(password)
    assert not [one for one in _fragments(password) if one in text and one not in usual]


@settings(max_examples=500, deadline=None)
@given(password=_PASSWORDS)
def test_no_fragment_of_a_password_is_in_an_address_that_is_shown(password):
    shown = without_secrets(f"http://ada:{password}@host:4200/api")
    assert shown in {UNREADABLE_URL, "http://host:4200/api"}


def _fragments(password: str) -> set[str]:
    return {password[at : at + _TELLING] for at in range(len(password) - _TELLING + 1)}


def test_a_key_in_an_address_that_cannot_be_asked_is_not_told():
    connection = TiledConnection(Settings(tiled_uri="localhost?api_key=s3cret"))
    assert "s3cret" not in connection.problem()
    with pytest.raises(ConfigurationError) as error:
        Catalog.connect(Settings(tiled_uri="localhost?api_key=s3cret"))
    assert "s3cret" not in str(error.value)
