"""Where a group of Kafka began to read."""

from bluesky_prefect.sources._known_partitions import KnownPartitions


def test_a_group_begins_a_partition_once_whatever_is_said_later(tmp_path):
    assert KnownPartitions(tmp_path, "a-group").begin("a/topic", 0, 7) == 7
    known = KnownPartitions(tmp_path, "a-group")
    assert (known.begin("a/topic", 0, 99), known.begin("a/topic", 1, 3)) == (7, 3)


def test_groups_know_nothing_of_one_another(tmp_path):
    KnownPartitions(tmp_path, "a-group").begin("topic", 0, 7)
    assert KnownPartitions(tmp_path, "another").begin("topic", 0, 9) == 9


def test_a_spoilt_file_is_a_first_start(tmp_path):
    KnownPartitions(tmp_path, "a-group").begin("topic", 0, 7)
    [path] = tmp_path.iterdir()
    path.write_text('{"begun": [1]}')
    assert KnownPartitions(tmp_path, "a-group").begin("topic", 0, 9) == 9


def test_a_partition_that_was_there_when_a_group_first_listened_begins_at_its_end_then(tmp_path):
    KnownPartitions(tmp_path, "a-group").listen(["topic"], {("topic", 0): 7})
    known = KnownPartitions(tmp_path, "a-group")
    assert known.topics == {"topic"}
    assert (known.begin("topic", 0, 2), known.begin("topic", 1, 2)) == (7, 2)


def test_topics_that_are_added_move_no_partition_that_was_begun(tmp_path):
    known = KnownPartitions(tmp_path, "a-group")
    known.listen(["topic"], {("topic", 0): 7})
    known.listen(["another"], {("topic", 0): 9, ("another", 0): 5})
    known = KnownPartitions(tmp_path, "a-group")
    assert known.topics == {"topic", "another"}
    assert (known.begin("topic", 0, 0), known.begin("another", 0, 0)) == (7, 5)


def test_a_file_of_an_earlier_version_names_no_topics(tmp_path):
    KnownPartitions(tmp_path, "a-group").begin("topic", 0, 7)
    [path] = tmp_path.iterdir()
    path.write_text('{"group": "a-group", "begun": {"topic/0": 7}}')
    known = KnownPartitions(tmp_path, "a-group")
    assert (known.topics, known.begin("topic", 0, 9)) == (set(), 7)


def test_a_group_goes_on_where_it_was_if_kafka_has_forgotten_that(tmp_path):
    known = KnownPartitions(tmp_path, "a-group")
    known.listen(["topic"], {("topic", 0): 7, ("topic", 1): 8})
    known.reached({("topic", 0): 20})
    known = KnownPartitions(tmp_path, "a-group")
    assert (known.begin("topic", 0, 0), known.begin("topic", 1, 0)) == (20, 8)


def test_what_is_known_already_is_not_written_again(tmp_path):
    known = KnownPartitions(tmp_path, "a-group")
    known.reached({("topic", 0): 20})
    [path] = tmp_path.iterdir()
    path.unlink()
    known.reached({("topic", 0): 20})
    known.reached({})
    assert not list(tmp_path.iterdir())
