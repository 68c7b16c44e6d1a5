"""The configuration of the stack's Tiled server."""

import json
import sqlite3
from contextlib import closing

import pytest

from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._tiled import TiledServer

TABLES = "CREATE TABLE nodes (id INTEGER); CREATE TABLE alembic_version (version_num TEXT);"


@pytest.fixture
def server(tmp_path):
    server = TiledServer(StackPaths(tmp_path / "a folder#1"), 0, "key")
    server.catalog.parent.mkdir(parents=True)
    return server


def is_to_be_made(server):
    server.prepare()
    [tree] = json.loads((server.catalog.parent / "config.yml").read_text())["trees"]
    return tree["args"]["init_if_not_exists"]


@pytest.mark.parametrize("left", [None, "", TABLES], ids=["nothing", "an empty file", "tables without a version"])
def test_a_catalog_that_is_not_whole_is_made(server, left):
    if left is not None:
        with closing(sqlite3.connect(server.catalog)) as catalog:
            catalog.executescript(left)
    assert is_to_be_made(server)
    assert server.catalog.exists() is (left is not None)


def test_what_is_no_database_is_left_to_tiled_to_tell_of(server):
    server.catalog.write_text("not a database\n" * 100)
    assert is_to_be_made(server)


def test_a_catalog_that_was_made_is_not_made_again(server):
    with closing(sqlite3.connect(server.catalog)) as catalog:
        catalog.execute("PRAGMA journal_mode=WAL")
        catalog.executescript(f"{TABLES} INSERT INTO alembic_version VALUES ('917dbbcfc4b1')")
    assert not is_to_be_made(server)
