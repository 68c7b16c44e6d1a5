"""'bluesky-prefect listen kafka' on a real broker: an offset is committed once its run is on disk, and not before."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from bluesky_prefect.sources._known_partitions import KnownPartitions
from tests.services.brokers import KafkaBroker
from tests.services.listeners import Listener
from tests.services.streaming_tiled import free_port

SERVICES = Path(__file__).parents[1] / "services"


@pytest.fixture(scope="module")
def broker():
    broker = KafkaBroker()
    yield broker.address
    broker.close()


@pytest.fixture
def topic():
    return f"tst{uuid.uuid4().hex[:8]}.bluesky.runengine.documents"


class Publishing:
    """A session that publishes to a topic."""

    def __init__(self, broker: str, topic: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVICES / "kafka_publisher.py"), broker, topic],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, order: str) -> str:
        """Give an order, and return the answer."""
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def publish(broker, topic):
    publishing = Publishing(broker, topic)
    yield publishing
    publishing.process.communicate(timeout=30)


@pytest.fixture
def listen(broker, topic, tmp_path):
    """Start listeners of one group, with one state directory."""
    started: list[Listener] = []

    def start(*arguments: str, **options) -> Listener:
        words = arguments if arguments and not arguments[0].startswith("-") else (topic, *arguments)
        log = tmp_path / "state" / "listener.log"
        log.unlink(missing_ok=True)
        started.append(Listener(log.parent, *_words("kafka", words, broker, topic), **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.close()


def _words(source, words, broker, topic):
    return source, *words, "--servers", broker, "--group", topic


def committed(broker, topic):
    """Return how far the group has come, as the sum over partitions."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": topic})
    try:
        parts = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        found = consumer.committed([TopicPartition(topic, number) for number in parts], timeout=10)
        return sum(max(0, one.offset) for one in found)
    finally:
        consumer.close()


def test_a_run_that_is_published_is_in_the_outbox_and_then_committed(broker, topic, publish, listen):
    listener = listen("--from-beginning")
    uid = publish("scan")
    listener.wait_for(uid)
    [entry] = listener.entries()
    assert (entry.submission.start["plan_name"], entry.submission.stop["num_events"]) == ("count", {"primary": 1})
    listener.wait_until(lambda: committed(broker, topic) == 4)


def test_a_regular_expression_names_topics(topic, publish, listen):
    uid = publish("scan")
    listener = listen(f"^{topic[:8]}.*documents$", "--from-beginning")
    listener.wait_for(uid)


def test_killed_between_document_and_commit_it_reads_the_run_again_and_starts_it_once(broker, topic, publish, listen):
    first = listen("--from-beginning", command=(sys.executable, str(SERVICES / "killed_at_commit.py")))
    uid = publish("scan")
    assert first.process.wait(60) == -9
    assert committed(broker, topic) == 0
    second = listen()
    second.wait_until(lambda: committed(broker, topic) == 4)
    assert second.uids() == [uid]


def test_killed_in_the_middle_of_a_run_it_knows_the_start_document_afterwards(broker, topic, publish, listen):
    first = listen("--from-beginning")
    before = publish("scan")
    first.wait_for(before)
    begun = publish("begin")
    first.wait_until(lambda: committed(broker, topic) == 4)
    first.kill()
    assert publish("end") == begun
    second = listen()
    second.wait_for(begun)
    assert [entry.submission.start.get("plan_name") for entry in second.entries()] == ["count", "count"]


def test_a_message_that_holds_no_document_is_set_aside_and_the_next_run_arrives(topic, publish, listen):
    listener = listen("--from-beginning")
    publish("send \x93poison")
    uid = publish("scan")
    listener.wait_for(uid)
    [about] = (listener.log.parent / "refused-messages").glob("*.json")
    assert json.loads(about.read_text())["topic"] == topic
    assert about.with_suffix(".message").read_bytes().endswith(b"poison")


def test_a_new_group_begins_with_what_is_published_from_then_on(publish, listen):
    publish("scan")
    first = listen()
    first.wait_until(lambda: any(first.log.parent.glob("listen-kafka-*.json")))
    first.kill()
    uid = publish("scan")
    second = listen()
    second.wait_for(uid)
    assert second.uids() == [uid]


def test_what_is_published_to_a_new_topic_while_the_first_listener_is_away_is_read_afterwards(publish, listen):
    first = listen()
    first.wait_for_line("Listening")
    first.kill()
    uids = [publish("scan") for _ in range(3)]
    second = listen()
    second.wait_for(*uids)
    assert len(second.uids()) == 3


def test_a_second_listener_of_a_group_reads_its_own_topic_at_once(broker, topic, publish, listen, tmp_path):
    first = listen()
    first.wait_until(lambda: committed(broker, topic) == 0 and "Listening" in first.log.read_text())
    another = f"{topic}2"
    session = Publishing(broker, another)
    session("scan")
    second = Listener(tmp_path / "second", "kafka", another, "--servers", broker, "--group", topic)
    try:
        second.wait_for_line("Listening")
        uids = [session("scan")]
        second.wait_until(lambda: second.uids() or uids.append(session("scan")))
        assert set(second.uids()) <= set(uids)
    finally:
        second.close()
        session.process.communicate(timeout=30)


def test_a_group_that_kafka_has_forgotten_goes_on_where_it_was(broker, topic, publish, listen, tmp_path):
    listener = listen("--from-beginning")
    before = publish("scan")
    listener.wait_for(before)
    listener.wait_until(lambda: committed(broker, topic) == 4)
    assert listener.close() == 0
    # The same listener by another name of its group, which is as new to Kafka as one that it has forgotten.
    [known] = listener.log.parent.glob("listen-kafka-*.json")
    known.rename(known.with_name(KnownPartitions(tmp_path, f"{topic}-again")._path.name))
    (listener.log.parent / "outbox.sqlite").unlink()  # what is in it is deleted after a month
    uid = publish("scan")
    again = Listener(listener.log.parent, "kafka", topic, "--servers", broker, "--group", f"{topic}-again")
    try:
        again.wait_for(uid)
        assert again.uids() == [uid]
    finally:
        again.close()


def test_settings_that_kafka_does_not_know_are_named(topic, tmp_path, listen):
    (tmp_path / "config.json").write_text('{"no.such.setting": 1}')
    listener = listen(topic, "--config", str(tmp_path / "config.json"))
    assert listener.process.wait(60) == 1
    assert "no.such.setting" in listener.log.read_text()


def test_while_a_broker_is_away_the_log_names_it_and_says_each_trouble_once(tmp_path):
    away = f"127.0.0.1:{free_port()}"
    listener = Listener(tmp_path, "kafka", "documents", "--servers", away)
    try:
        listener.wait_until(lambda: "is read when it is back" in listener.log.read_text())
    finally:
        # The client hands over what it logged when it is closed, at the latest.
        listener.close()
    log = listener.log.read_text()
    assert f"Kafka at {away} cannot be used" in log
    assert log.count(" FAIL ") == 1
