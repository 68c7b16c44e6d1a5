"""The table of a campaign: what it prints is what was found."""

import io

from rich.console import Console

from tests.chaos.accounts import Verdict
from tests.chaos.campaign import Injection, Outcome
from tests.chaos.fault import Fault
from tests.chaos.table import table


def _fault(title: str) -> Fault:
    return Fault(title, title, lambda beamline, chance, runs: None)


def _cells(outcome: Outcome) -> dict[str, list[str]]:
    console = Console(width=120, file=io.StringIO())
    console.print(table(outcome))
    lines = [line.strip("│ ").split("│") for line in console.file.getvalue().splitlines() if line.startswith("│")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_each_fault_answers_for_the_runs_that_were_at_risk_under_it():
    one, two = _fault("one"), _fault("two")
    injections = [
        Injection(one, 0, at_risk={"a", "b"}, recovered_s=1.0),
        Injection(two, 0, at_risk={"c"}, recovered_s=2.0),
        Injection(one, 0, at_risk={"d"}, recovered_s=3.0),
    ]
    verdict = Verdict(
        4, 5, lost={"d": "no files"}, duplicated={"a": "2 completed flow runs"}, differing={"c": "an event"}
    )
    assert _cells(Outcome(injections, verdict)) == {
        "one": ["2", "3", "1", "1", "0", "3.0"],
        "two": ["1", "1", "0", "0", "1", "2.0"],
        "all": ["3", "5", "1", "1", "1", "3.0"],
    }


def test_a_fault_that_was_not_recovered_from_says_never():
    cells = _cells(Outcome([Injection(_fault("one"), 0, at_risk={"a"})], Verdict(1, lost={"a": "no files"})))
    assert cells["one"][-1] == "never"


def test_a_fault_that_could_not_be_injected_makes_no_sound_campaign():
    assert Outcome([Injection(_fault("one"), 0)], Verdict()).sound
    assert not Outcome([Injection(_fault("one"), 0, trouble="not within 60 s")], Verdict()).sound
