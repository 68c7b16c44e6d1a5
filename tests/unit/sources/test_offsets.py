"""How far a consumer of Kafka may say that it has come."""

from hypothesis import given
from hypothesis import strategies as st

from bluesky_prefect.sources._offsets import PartitionOffsets


def test_a_run_that_goes_on_holds_the_offset_of_its_start():
    offsets = PartitionOffsets(10)
    for offset, uid in ((10, "a"), (11, "b")):
        offsets.start(uid, offset, 0)
        offsets.handled(offset, 0)
    offsets.stop("a")
    offsets.handled(12, 0)
    assert offsets.may_commit(60) == 11
    offsets.stop("b")
    offsets.handled(13, 0)
    assert offsets.may_commit(60) == 14


def test_a_run_that_never_stops_is_waited_for_by_the_time_of_messages_alone():
    offsets = PartitionOffsets(0)
    offsets.start("dead", 0, 1_000)
    offsets.handled(0, 1_000)
    offsets.handled(1, 60_000)
    assert offsets.may_commit(60) == 0
    offsets.handled(2, 62_000)
    assert offsets.may_commit(60) == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["start", "event", "stop"]))))
def test_no_offset_behind_the_start_of_a_run_that_goes_on_is_committed(messages):
    offsets, begun = PartitionOffsets(0), {}
    for offset, (uid, name) in enumerate(messages):
        if name == "start":
            offsets.start(uid, offset, 0)
            begun.setdefault(uid, offset)
        elif name == "stop":
            offsets.stop(uid)
            begun.pop(uid, None)
        offsets.handled(offset, 0)
        assert offsets.may_commit(60) == min([offset + 1, *begun.values()])
