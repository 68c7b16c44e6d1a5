"""A small part of `make chaos`: whatever breaks, Tiled has each run, and what stopped is processed exactly once."""

import json

import pytest

import tests.chaos.faults  # noqa: F401 - fills the list
from tests.chaos.accounts import audit, exported
from tests.chaos.beamline import Beamline
from tests.chaos.campaign import Campaign, Outcome
from tests.chaos.fault import FAULTS
from tests.services.postgres import empty_database

# The first test's counts the module's fixtures, too; there may be another process of tests beside it.
pytestmark = pytest.mark.timeout(1800)

SCANS = 4
# Of each kind one; most of the others have a test of their own, and `make chaos` injects all.
SMALL = [
    "killed-before-commit",
    "killed-after-accepted",
    "courier-killed",
    "clock-forward",
    "prefect-loses-answers",
    "prefect-killed",
    "executor-killed",
    "pending-late",
    "listen-kafka-away",
    "listen-zmq-proxy",
]


@pytest.fixture(scope="module")
def beamline(tmp_path_factory):
    """A beamline with Prefect on PostgreSQL: on SQLite it stands still for a minute now and then."""
    with (
        empty_database() as database,
        Beamline(tmp_path_factory.mktemp("chaos"), executors=2, database=database, report=print) as beamline,
    ):
        yield beamline


@pytest.fixture(scope="module")
def outcome(beamline) -> Outcome:
    """What a campaign through faults of each kind found."""
    return Campaign(beamline, SMALL, seed=1, report=print).run(1, SCANS, one_by_one=False)


def test_whatever_breaks_each_run_is_processed_exactly_once(outcome):
    assert outcome.verdict.lost == {}
    assert outcome.verdict.duplicated == {}
    assert outcome.verdict.runs >= 16


def test_whatever_breaks_tiled_has_each_run_as_it_was_emitted(outcome):
    assert outcome.verdict.differing == {}
    assert outcome.verdict.compared >= outcome.verdict.runs
    assert outcome.verdict.events >= 60


def test_every_fault_had_runs_at_risk_and_was_recovered_from(outcome):
    assert {injection.fault.name for injection in outcome.injections} == set(SMALL)
    assert all(injection.at_risk for injection in outcome.injections)
    assert [injection.fault.name for injection in outcome.injections if injection.recovered_s is None] == []
    assert [injection.trouble for injection in outcome.injections if injection.trouble] == []


def test_the_count_finds_what_was_planted(outcome, beamline):
    lost, differing, twice, other, *_ = sorted(beamline.ledger.promised() - beamline.damaged)
    beamline.prefect.delete(lost)
    [folder] = exported(beamline.exports)[differing]
    [data] = folder.glob("*_primary.csv")
    data.write_text(data.read_text().replace("1", "2"))
    beamline.prefect.complete_again(twice)
    emitted = beamline.emissions.path(other)
    lines = [json.loads(line) for line in emitted.read_text().splitlines()]
    events = [line["doc"] for line in lines if line.get("name") == "event"]
    [event, *_] = [event for event in events if "det" in event["data"]]  # others are a baseline's
    event["data"]["det"] += 1e-12
    emitted.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    verdict = audit(beamline)
    assert verdict.lost.keys() == {lost, differing}
    assert verdict.duplicated == {twice: "2 completed flow runs"}
    assert verdict.differing.keys() == {other}


def test_the_campaign_holds_every_fault_that_is_promised():
    assert set(SMALL) < set(FAULTS)
    assert len(FAULTS) >= 90
