"""What plans may ask about the runs that stopped in their process."""

from bluesky_prefect.outbox import Outbox
from bluesky_prefect.outbox._stopped_runs import StoppedRuns


def note(runs, uid, *started, known=("a/x", "b/x"), opted_out=False):
    runs.note(uid, opted_out=opted_out, started=started, known=known, outboxes=[])


def test_a_run_is_found_with_what_was_started_on_it():
    runs = StoppedRuns()
    note(runs, "one", "a/x")
    note(runs, "two", opted_out=True)
    assert runs.find("one").started == ("a/x",)
    assert runs.find("two").opted_out
    assert runs.last().uid == "two"
    assert runs.find("three") is None
    assert StoppedRuns().last() is None


def test_what_several_callbacks_say_of_a_run_is_put_together():
    runs = StoppedRuns()
    outboxes = [Outbox(None), Outbox(None)]
    for outbox, name in zip(outboxes, ("a/x", "b/x"), strict=True):
        runs.note("one", opted_out=False, started=[name], known=[name], outboxes=[outbox])
    found = runs.find("one")
    assert found.started == found.known == ("a/x", "b/x")
    assert found.outboxes == tuple(outboxes)


def test_runs_that_stopped_after_another_come_in_their_order():
    runs = StoppedRuns()
    for uid in ("one", "two", "three"):
        note(runs, uid)
    assert [run.uid for run in runs.after(runs.find("one").number)] == ["two", "three"]
    assert runs.after(runs.last().number) == []


def test_old_runs_are_forgotten():
    runs = StoppedRuns()
    for number in range(1500):
        note(runs, str(number))
    assert runs.find("0") is None
    assert runs.find("1499")
