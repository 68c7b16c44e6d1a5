"""What tells two beamlines apart that have the same name: the catalog, by its path and the server that has it."""

import socket

import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.prefect_api import Beamline
from bluesky_prefect.prefect_api._beamline import catalog_of


def beamline(**settings):
    return Beamline.of(Settings(beamline="tst", **settings))


def test_without_a_name_there_is_no_beamline_to_be_told_apart():
    assert Beamline.of(Settings()) is None


@pytest.mark.parametrize(
    ("settings", "catalog"),
    [
        ({"tiled_uri": "https://key:s3cret@tiled.example.org/"}, "tst/raw of Tiled at https://tiled.example.org"),
        ({"tiled_uri": "https://t.org", "raw_container": "old"}, "old of Tiled at https://t.org"),
        (
            {"tiled_uri": "http://127.0.0.1:8000"},
            f"tst/raw of Tiled at http://127.0.0.1:8000 on {socket.gethostname()}",
        ),
    ],
)
def test_a_deployment_says_which_catalog_of_which_server_it_is_for(settings, catalog):
    said = beamline(**settings).describe("Process a run.", None)
    assert said.startswith("Process a run.\n")
    assert catalog_of(said) == f"the catalog {catalog}"
    assert "s3cret" not in said


def test_where_no_server_is_known_a_deployment_stays_for_the_catalog_it_was_for():
    before = beamline(tiled_uri="https://t.org").describe("Process a run.", None)
    assert beamline().describe("Process a run.", before) == before
    assert beamline(raw_container="old").describe("Process a run.", before).endswith("tst: the catalog old.")


def test_where_no_server_is_known_a_deployment_says_which_catalog_it_is_for():
    said = beamline().describe("Process a run.", "Somebody's own words.")
    assert said == "Process a run.\n\nBeamline tst: the catalog tst/raw."
    known = beamline(tiled_uri="https://t.org")
    assert "t.org" in known.describe("Process a run.", said)


def test_a_catalog_may_be_another_one_that_does_not_name_its_server():
    known, unknown = beamline(tiled_uri="https://t.org"), beamline()
    assert known.may_be_for(unknown.catalog)
    assert unknown.may_be_for(known.catalog)
    assert not known.may_be_for(beamline(tiled_uri="https://other.org").catalog)
    assert not unknown.may_be_for(beamline(raw_container="old", tiled_uri="https://t.org").catalog)


def test_the_work_pool_says_what_is_called_otherwise_than_the_beamline():
    assert beamline().environment == {"BLUESKY_PREFECT_BEAMLINE": "tst"}
    assert beamline(raw_container="old").environment == {
        "BLUESKY_PREFECT_BEAMLINE": "tst",
        "BLUESKY_PREFECT_RAW_CONTAINER": "old",
    }
