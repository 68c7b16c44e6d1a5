"""How far a consumer of Kafka may say that it has come."""

from hypothesis import given
from hypothesis import strategies as st

from bluesky_prefect.sources._offsets import MOST_BEGUN, PartitionOffsets


def test_runs_that_never_stop_hold_nothing_up_beyond_a_number():
    offsets = PartitionOffsets(0)
    for number in range(MOST_BEGUN + 10):
        offsets.start(f"run-{number}", number)
        offsets.handled(number)
    assert len(offsets.begun) == MOST_BEGUN
    assert offsets.may_commit(60) == 10


def test_a_run_that_goes_on_holds_the_offset_of_its_start():
    offsets = PartitionOffsets(10)
    for offset, uid in ((10, "a"), (11, "b")):
        offsets.start(uid, offset)
        offsets.handled(offset)
    offsets.stop("a")
    offsets.handled(12)
    assert offsets.may_commit(60) == 11
    offsets.stop("b")
    offsets.handled(13)
    assert offsets.may_commit(60) == 14


def test_a_run_that_never_stops_is_waited_for_by_this_process_s_own_clock():
    now = 0.0
    offsets = PartitionOffsets(0, clock=lambda: now)
    offsets.start("dead", 0)
    offsets.handled(0)
    offsets.handled(1)
    now = 60.0
    assert offsets.may_commit(60) == 0
    now = 61.0
    assert offsets.may_commit(60) == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["start", "event", "stop"]))))
def test_no_offset_behind_the_start_of_a_run_that_goes_on_is_committed(messages):
    offsets, begun = PartitionOffsets(0), {}
    for offset, (uid, name) in enumerate(messages):
        if name == "start":
            offsets.start(uid, offset)
            begun.setdefault(uid, offset)
        elif name == "stop":
            offsets.stop(uid)
            begun.pop(uid, None)
        offsets.handled(offset)
        assert offsets.may_commit(60) == min([offset + 1, *begun.values()])
