"""What names no run is refused before anybody is asked."""

import pytest

from bluesky_prefect.core import FlowInputError
from bluesky_prefect.tiled_api import Catalog, _stored_runs, runs_named

NOWHERE = Catalog(None, raw="raw", processed="processed", name="nowhere")  # type: ignore[arg-type]  # never asked


@pytest.mark.parametrize("ref", ["1250..1200", "-1..-10", "-3..3", "0..5", "-5..0"])
def test_a_range_that_runs_backwards_is_refused_with_the_right_form(ref):
    with pytest.raises(FlowInputError, match=rf"{ref}.*1200\.\.1250.*-10\.\.-1"):
        runs_named(NOWHERE, [ref])


@pytest.mark.parametrize("ref", ["", "a/b", "1..", "x..2"])
def test_what_could_not_be_a_run_is_refused(ref):
    with pytest.raises(FlowInputError):
        runs_named(NOWHERE, [ref])


@pytest.mark.parametrize("metadata", [{"start": "text", "stop": [1]}, {"selected": None}, None, {"start": {"uid": 7}}])
def test_an_entry_that_is_no_run_stops_nobody_from_reading_the_next_one(metadata):
    run = _stored_runs._stored(NOWHERE, {"id": "a-key", "attributes": {"metadata": metadata}})
    assert (run.stop, bool(run.uid)) == ({}, True)
