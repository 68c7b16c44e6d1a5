"""Messages set aside: whatever strangers send, the disk and the log stay small."""

import hashlib
import json
import logging

import pytest

from bluesky_prefect.sources import RefusedMessages


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "refused-messages"


def sizes(directory):
    return sorted(path.stat().st_size for path in directory.glob("*.message"))


def test_a_message_is_kept_beside_its_reason_and_origin(directory):
    RefusedMessages(directory).put(b"hello", "it is no document", topic="t")
    (message,), (about,) = directory.glob("*.message"), directory.glob("*.json")
    told = json.loads(about.read_text())
    assert message.read_bytes() == b"hello"
    assert (told["reason"], told["topic"], told["bytes"]) == ("it is no document", "t", 5)


def test_the_same_message_twice_is_there_once(directory):
    refused = RefusedMessages(directory)
    for _ in range(2):
        refused.put(b"hello", "why")
    assert sizes(directory) == [5]


def test_of_a_large_message_the_first_part_is_kept(directory):
    RefusedMessages(directory).put(b"a" * 20_000_000, "why")
    assert sizes(directory) == [RefusedMessages.MOST_OF_ONE]
    assert json.loads(next(directory.glob("*.json")).read_text())["bytes"] == 20_000_000


def test_a_long_reason_is_cut(directory):
    RefusedMessages(directory).put(b"a", "b" * 1_000_000, topic="c" * 1_000_000)
    assert next(directory.glob("*.json")).stat().st_size < 10_000


def test_all_messages_together_stay_below_a_bound(directory, monkeypatch):
    monkeypatch.setattr(RefusedMessages, "MOST_BYTES", 2_500_000)
    for number in range(5):
        RefusedMessages(directory).put(bytes([number]) * 1_000_000, "why")
    assert sizes(directory) == [1_000_000] * 2


def test_no_more_messages_are_kept_than_a_number(directory, monkeypatch):
    monkeypatch.setattr(RefusedMessages, "MOST", 3)
    refused = RefusedMessages(directory)
    for number in range(5):
        refused.put(bytes([number]), "why")
    assert len(sizes(directory)) == 3


def test_that_it_is_full_is_told_once(directory, monkeypatch, caplog):
    monkeypatch.setattr(RefusedMessages, "MOST", 1)
    refused = RefusedMessages(directory)
    with caplog.at_level(logging.ERROR):
        for number in range(50):
            refused.put(bytes([number]), "why")
    assert ["is full" in line for line in caplog.messages] == [False, True]


def test_what_is_told_is_on_one_short_line(directory, caplog):
    with caplog.at_level(logging.ERROR):
        RefusedMessages(directory).put(b"a", "b\n" * 100_000, topic="c\n" * 100_000)
    assert "\n" not in caplog.text.rstrip("\n")
    assert len(caplog.text) < 3_000


def test_a_link_in_its_directory_is_not_followed(directory, tmp_path):
    directory.mkdir(mode=0o700)
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    name = hashlib.sha256(b"hello").hexdigest()[:16]
    for suffix in ("message", "json"):
        (directory / f"{name}.{suffix}").symlink_to(theirs)
    RefusedMessages(directory).put(b"hello", "why")
    assert theirs.read_text() == "theirs"
    assert (directory / f"{name}.message").read_bytes() == b"hello"


def test_a_message_whose_reason_could_not_be_written_has_it_the_next_time(directory):
    refused = RefusedMessages(directory)
    refused.put(b"hello", "why")
    next(directory.glob("*.json")).unlink()
    refused.put(b"hello", "why")
    assert list(directory.glob("*.json"))


def test_the_same_message_many_times_is_told_of_twice(directory, caplog):
    refused = RefusedMessages(directory)
    with caplog.at_level(logging.ERROR):
        for _ in range(50):
            refused.put(b"hello", "why")
    assert len(caplog.messages) == 2
