"""How the flow runs of runs look."""

import dataclasses
import json
import re
import time

import pytest
from rich.console import Console

from bluesky_prefect.cli import _render_flows as render_flows
from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import FlowTimeout
from bluesky_prefect.watch import Listing, WorkflowStatus

LINK = "http://127.0.0.1:4200/runs/flow-run/b7a1d3f0-0000-4000-8000-00000000000"
AWAY = "Prefect at http://127.0.0.1:4200/api cannot be reached."


def status(scan_id=12, state_type="COMPLETED", **changes):
    flow_run = {"flow_run_id": "id", "flow_run_name": f"scan-{scan_id}-count", "url": f"{LINK}{scan_id % 10}"}
    values = {"state": state_type.capitalize(), "message": "", "created": 0.0, "run_s": 4.25, **flow_run, **changes}
    return WorkflowStatus("c0ffee-uid", "my-workflow/local", scan_id, "count", state_type, **values)


UNSENT = {"flow_run_id": None, "flow_run_name": None, "url": None, "run_s": 0.0, "message": AWAY}


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(terminal, "out", lambda: Console(width=80, force_terminal=True, markup=False, highlight=False))


def test_a_row_says_when_scan_plan_flow_run_state_and_seconds(capsys):
    render_flows.listing(Listing((status(created=time.time()),)))
    row = capsys.readouterr().out.splitlines()[1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d", row.split()[0])
    assert row.split()[1:] == ["12", "count", "scan-12-count", "Completed", "4.2"]


def test_a_row_of_another_day_has_its_date(capsys):
    render_flows.listing(Listing((status(created=86400.0 * 365),)))
    assert capsys.readouterr().out.splitlines()[1].startswith(("1970-12-31", "1971-01-01"))


def test_a_flow_run_made_by_hand_is_told_apart(capsys):
    render_flows.listing(Listing((status(), dataclasses.replace(status(), workflow="", run_uid=""))))
    assert "by hand" in capsys.readouterr().out.splitlines()[2]


def test_where_no_name_can_be_a_link_all_links_are_below_unbroken(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "out", lambda: Console(width=80, markup=False, highlight=False))
    render_flows.listing(Listing((status(11), status(12))))
    assert capsys.readouterr().out.splitlines()[-2:] == [f"scan-11-count: {LINK}1", f"scan-12-count: {LINK}2"]


def test_several_workflows_are_told_apart(capsys):
    render_flows.listing(Listing((status(), dataclasses.replace(status(), workflow="find-peak/local"))))
    header, *rows = capsys.readouterr().out.splitlines()
    assert "Workflow" in header
    assert ["my-workflow/local" in rows[0], "find-peak/local" in rows[1]] == [True, True]


def test_in_a_terminal_names_are_links_and_those_of_failures_stand_below_unbroken(capsys, narrow):
    failed = status(13, "FAILED", message="boom")
    render_flows.listing(Listing((status(11), status(), failed)))
    table, below = capsys.readouterr().out.split("scan-11-count: ")
    assert f"{LINK}2\x1b" in table
    assert below == f"{LINK}1\nscan-13-count: {LINK}3\n", "the newest, and what failed"


def test_what_waits_says_why_once(capsys):
    waiting = [status(number, "WAITING", **UNSENT) for number in (1, 2)]
    render_flows.listing(Listing(tuple(waiting), (AWAY,)))
    assert capsys.readouterr().out.count(AWAY) == 1


def test_an_empty_list_says_so(capsys):
    render_flows.listing(Listing(()))
    assert capsys.readouterr().out == "No flow runs.\n"


def test_that_none_failed_is_said_so(capsys):
    render_flows.listing(Listing(()), failed=True)
    assert capsys.readouterr().out == "None failed.\n"


def test_metadata_cannot_forge_a_line(capsys):
    render_flows.listing(Listing((status(plan_name := 1, flow_run_name=f"x\n{plan_name} forged[red]"),)))
    out = capsys.readouterr().out
    assert "x\\n1 forged[red]" in out


def test_json_is_for_programs(capsys):
    render_flows.listing_as_json(Listing((status(),), (AWAY,)))
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == [AWAY]
    assert told["flow_runs"][0]["scan_id"] == 12
    assert told["flow_runs"][0]["url"] == f"{LINK}2"


def test_a_wait_ends_with_what_came_out_and_the_links_of_failures(capsys):
    failed = status(13, "CRASHED", message="killed")

    def wait(report):
        report([], 2, "")
        report([status()], 2, AWAY)
        return [status(), failed]

    render_flows.waiting(wait)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 flow runs: 1 completed, 1 crashed."
    assert lines[1].startswith("Crashed: scan-13-count")
    assert f"{LINK}3" in lines[1]


def test_a_wait_for_nothing_says_so(capsys):
    render_flows.waiting(lambda report: [])
    assert capsys.readouterr().out == "No flow runs are running.\n"


def test_a_wait_that_takes_too_long_raises():
    def wait(report):
        raise FlowTimeout("2 not done")

    with pytest.raises(FlowTimeout):
        render_flows.waiting(wait)


def test_beamlines_are_told_apart_where_there_are_several_or_one_was_asked_for(capsys):
    tst, xpd = status(beamline="tst"), status(beamline="xpd")
    for listing, shown in (
        (Listing((tst, tst)), False),
        (Listing((tst, xpd)), True),
        (Listing((tst, status())), True),
        (Listing((tst,), beamline="tst"), True),
    ):
        render_flows.listing(listing)
        header, row, *_ = capsys.readouterr().out.splitlines()
        assert ("Beamline" in header) is shown
        assert ("tst" in row) is shown
