"""A session's way to a real Tiled server."""

import contextlib
import time
from pathlib import Path

import pytest
from bluesky.plans import count
from tiled.profiles import load_profiles

from bluesky_prefect.core import ConfigurationError, Settings
from bluesky_prefect.session._tiled import LazyClient, TiledConnection
from bluesky_prefect.stack import StackInfo
from tests.system.beamline import Beamline


def test_a_missing_api_key_is_said_and_nothing_asks_for_a_password(stack: StackInfo):
    connection = TiledConnection(Settings(tiled_uri=stack.tiled_uri, tiled_api_key=None))

    with pytest.raises(ConfigurationError, match="TILED_API_KEY"):
        connection.root()


def test_a_session_finds_its_tiled_by_a_profile_and_asks_for_no_password(stack: StackInfo):
    profiles = Path.home() / ".config/tiled/profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    (profiles / "session.yml").write_text(f"of-a-session:\n  uri: {stack.tiled_uri}\n")
    load_profiles.cache_clear()  # a test before this one may have read them
    settings = Settings(tiled_uri=None, tiled_profile="of-a-session", tiled_api_key=stack.tiled_api_key)

    with contextlib.closing(TiledConnection(settings)) as connection:
        assert connection.raw().path_parts == ["raw"]
    with pytest.raises(ConfigurationError, match="wants an API key: set TILED_API_KEY"):
        TiledConnection(settings.model_copy(update={"tiled_api_key": None})).root()


def test_a_missing_catalog_is_said(stack: StackInfo):
    settings = Settings(tiled_uri=stack.tiled_uri, tiled_api_key=stack.tiled_api_key, raw_container="elsewhere")

    with (
        contextlib.closing(TiledConnection(settings)) as connection,
        pytest.raises(ConfigurationError, match="elsewhere"),
    ):
        connection.raw()


def settings_of(stack: StackInfo, **others: object) -> Settings:
    return Settings(**{"tiled_uri": stack.tiled_uri, "tiled_api_key": stack.tiled_api_key, **others})


def test_a_session_s_start_finds_what_the_catalog_lacks_without_tiled_s_client(stack: StackInfo):
    assert TiledConnection(settings_of(stack)).catalog_problem() == ""
    with contextlib.closing(TiledConnection(settings_of(stack))) as connection:
        plain = connection.root().create_container(f"plain-{time.monotonic_ns()}").path_parts[-1]
    assert "lacks the spec" in TiledConnection(settings_of(stack, raw_container=plain)).catalog_problem()
    with pytest.raises(ConfigurationError, match="elsewhere"):
        TiledConnection(settings_of(stack, raw_container="elsewhere")).catalog_problem()
    with pytest.raises(ConfigurationError, match="refuses the API key: check TILED_API_KEY"):
        TiledConnection(settings_of(stack, tiled_api_key="wrong")).catalog_problem()
    with pytest.raises(ConfigurationError, match="wants an API key: set TILED_API_KEY"):
        TiledConnection(settings_of(stack, tiled_api_key=None)).catalog_problem()


def test_a_lazy_client_stands_for_the_catalog(stack: StackInfo):
    with contextlib.closing(TiledConnection(settings_of(stack))) as connection:
        beamline = Beamline(connection.raw(), stack.images)
        (uid,) = beamline.run(count([beamline.devices.det], 1))
        raw = LazyClient(connection.raw)
        assert raw[-1].start["uid"] == uid
        assert uid in raw
        assert len(raw) == len(connection.raw())
