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
