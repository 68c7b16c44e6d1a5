"""Results beside their runs, on a real Tiled server of this process that knows who may see what."""

import sqlite3
from contextlib import closing

import pytest
from pydantic import SecretStr
from tiled.access_control.access_policies import DummyAccessPolicy
from tiled.server import SimpleTiledServer

from bluesky_prefect.core import Settings
from bluesky_prefect.tiled_api import Catalog, run_without_streams, write_result

TAGS = ["beamline", "proposal-1"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiled")
    with closing(SimpleTiledServer(folder)) as server:
        with closing(sqlite3.connect(folder / "catalog.db")) as database, database:
            database.executemany("INSERT INTO access_tags (name) VALUES (?)", [(tag,) for tag in TAGS])
        server.app.state.access_policy = DummyAccessPolicy()  # keeps the tags, and lets everybody in
        address, _, _ = server.uri.partition("?")
        with Catalog.connect(Settings(tiled_uri=address, tiled_api_key=SecretStr(server.api_key))) as catalog:
            catalog.make_raw()
            yield catalog


@pytest.mark.parametrize("tags", [TAGS, []])
def test_who_may_see_a_run_may_see_its_results_and_nobody_else(catalog, tags):
    uid = f"tagged-{len(tags)}"
    documents = {"start": {"uid": uid, "time": 0}, "stop": {"exit_status": "success"}}
    node = catalog.raw.create_container(uid, metadata=documents, access_tags=tags or None)
    run = run_without_streams(node)
    for value in ([1.0], {"x": [1.0]}):
        write_result(catalog, run, "fit", value, {})
        assert sorted(catalog.processed()[f"fit-{uid}"].access_tags) == tags
