"""Documents from Kafka, as bluesky-kafka publishes them."""

import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import ConfigurationError, Settings, error_line, uid_text
from bluesky_prefect.courier import Reminders
from bluesky_prefect.metrics import Signals
from bluesky_prefect.sources._documents import hand_over, read_pair
from bluesky_prefect.sources._known_partitions import KnownPartitions
from bluesky_prefect.sources._offsets import PartitionOffsets
from bluesky_prefect.sources._refused_messages import RefusedMessages

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_COMMIT_EVERY_S = 1.0
# How far the group has come is noted here as well, for when Kafka has forgotten it: what was read since is read again.
_NOTE_EVERY_S = 60.0
_AGAIN_S = 2.0
_ANSWER_S = 10.0
# What tells two attempts of Kafka's client apart in its log, and no two troubles: after how long, by which thread.
_OF_ONE_ATTEMPT = re.compile(r" \(after .*|\d+")
# A listener that takes the place of one that was killed waits for that long.
_DEFAULTS = {"session.timeout.ms": 10_000}
# What is decided here, and by nobody's configuration file.
_OWN = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "auto.offset.reset": "earliest",
    # Partitions are given one by one here, which these know.
    "group.protocol": "classic",
    "partition.assignment.strategy": "range,roundrobin",
}


class KafkaSource:
    """Hands documents to a callback that are published to topics of Kafka.

    A message's offset is committed once what it caused is in the outbox on disk. A process that is killed before that
    reads it again, and the outbox knows it by its key. Messages that hold no document are set aside, and passed over.

    Parameters
    ----------
    callback : PrefectCallback
        Gets the documents.
    settings : Settings
        Says how long a run without a stop document is waited for (``open_after_s``).
    topics : sequence of str
        Names of topics; one that begins with ``^`` is a regular expression.
    refused : RefusedMessages
        Where messages go that hold no document.
    config : Mapping
        librdkafka's settings, ``bootstrap.servers`` and ``group.id`` among them.
    from_beginning : bool, optional
        Have a group that is new read all that the topics hold, and not only what comes from now on.
    signals : Signals, optional
        Where its thread says how it is; see `serve_metrics`.
    """

    def __init__(
        self,
        callback: PrefectCallback,
        settings: Settings,
        topics: Sequence[str],
        refused: RefusedMessages,
        config: Mapping[str, Any],
        *,
        from_beginning: bool = False,
        signals: Signals | None = None,
    ) -> None:
        self._callback = callback
        self._wait_s = settings.open_after_s
        self._topics = list(topics)
        self._refused = refused
        self._config = {**_DEFAULTS, **config, **_OWN, "error_cb": self._tell, "on_commit": self._note_commit}
        self._from_beginning = from_beginning
        self._signals = signals or Signals()
        self._known = KnownPartitions(settings.state_directory, config["group.id"])
        self._offsets: dict[tuple[str, int], PartitionOffsets] = {}
        self._committed: dict[tuple[str, int], int] = {}
        self._commit_at = 0.0
        self._note_at = 0.0
        self._reminders = Reminders(logger, time.monotonic)
        self._told_by_client = Reminders(logging.getLogger("kafka"), time.monotonic)
        self._is_away = False

    def run(self, finish: threading.Event) -> None:
        """Hand over documents until `finish` is set; an outage of Kafka is waited out.

        Raises
        ------
        ConfigurationError
            If Kafka's client does not take its settings.
        """
        from confluent_kafka import Consumer, KafkaException

        while not finish.is_set():
            self._signals.at_work(_AGAIN_S)
            try:
                consumer = Consumer(self._config, logger=_ClientLog(self._told_by_client))
            except (KafkaException, ValueError, TypeError) as error:
                raise ConfigurationError(f"Kafka's client does not take its settings: {error_line(error)}.") from error
            try:
                self._serve(consumer, finish)
            except KafkaException as error:
                self._away(error.args[0].str())
                finish.wait(_AGAIN_S)
            except OSError as error:
                self._away(error_line(error))
                finish.wait(_AGAIN_S)
            finally:
                self._offsets.clear()
                self._committed.clear()
                consumer.close()

    def _serve(self, consumer: Any, finish: threading.Event) -> None:
        if new := [one for one in self._topics if one not in self._known.topics]:
            self._known.listen(new, {} if self._from_beginning else self._ends_now(consumer, new))
        consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        logger.info("Listening to %s of Kafka as group %s", ", ".join(self._topics), self._config["group.id"])
        while not finish.is_set():
            self._signals.at_work(_POLL_S)
            self._take(consumer, consumer.poll(_POLL_S), finish)
            if time.monotonic() >= self._commit_at:
                self._commit(consumer, asynchronous=True)
            if time.monotonic() >= self._note_at:
                self._note_reached()
        self._commit(consumer)
        self._note_reached()

    def _ends_now(self, consumer: Any, new: Sequence[str]) -> dict[tuple[str, int], int]:
        """Return where the partitions end that are there now, by topic and number, of topics that are new here."""
        from confluent_kafka import TopicPartition

        topics = consumer.list_topics(timeout=_ANSWER_S).topics
        names = [one for one in topics if _named(one, new) and not _named(one, self._known.topics)]
        there = [(name, number) for name in names for number in topics[name].partitions]
        return {one: consumer.get_watermark_offsets(TopicPartition(*one), timeout=_ANSWER_S)[1] for one in there}

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        """Begin where the group has been, or else where it began.

        What was there before it first listened to a topic is passed over, unless it was asked for. A partition that
        came later, also while no listener was there, is read from its first message.
        """
        from confluent_kafka import KafkaException

        committed = consumer.committed(partitions, timeout=_ANSWER_S)
        for one in committed:
            partition = one.topic, one.partition
            if one.error:
                raise KafkaException(one.error)
            if one.offset >= 0:
                continue
            low = int(consumer.get_watermark_offsets(one, timeout=_ANSWER_S)[0])
            one.offset = max(low, self._known.begin(*partition, low))
        consumer.assign(committed)

    def _take(self, consumer: Any, message: Any, finish: threading.Event) -> None:
        if message is None:
            return
        if message.error():
            self._tell(message.error())
            return
        if self._is_away:
            self._is_away = False
            self._reminders.forget("away")
            self._told_by_client.told.clear()
            logger.warning("Kafka answers again")
        partition, offset = (message.topic(), message.partition()), message.offset()
        known = self._offsets.setdefault(partition, PartitionOffsets(offset))
        content = message.value() or b""
        try:
            name, doc = read_pair(content)
            hand_over(self._callback, name, doc)
            if name == "start":
                known.start(uid_text(doc["uid"]), offset)
            elif name == "stop":
                known.stop(uid_text(doc["run_start"]))
                self._commit_at = 0.0
        except Exception as error:  # noqa: BLE001 - a decoder that meets garbage raises anything
            if not self._set_aside(content, error, partition, offset):
                self._read_again(consumer, partition, offset, finish)
                return
        known.handled(offset)

    def _set_aside(self, content: bytes, error: Exception, partition: tuple[str, int], offset: int) -> bool:
        try:
            self._refused.put(content, error_line(error), topic=partition[0], partition=partition[1], offset=offset)
        except OSError as trouble:
            self._reminders.tell(
                "aside", logging.ERROR, "A message of Kafka cannot be set aside, and is tried again: %s", trouble
            )
            return False
        return True

    def _read_again(self, consumer: Any, partition: tuple[str, int], offset: int, finish: threading.Event) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        finish.wait(_AGAIN_S)
        try:
            consumer.seek(TopicPartition(*partition, offset))
        except KafkaException as error:  # somebody else reads this partition now, from the last commit on
            logger.debug("%s is not read here any more: %s", partition, error)

    def _commit(self, consumer: Any, *, asynchronous: bool = False) -> None:
        """Commit how far this group has come, if all of that is on disk."""
        from confluent_kafka import KafkaException, TopicPartition

        self._commit_at = time.monotonic() + _COMMIT_EVERY_S
        if not self._callback.has_all_on_disk:
            return
        reached = {partition: known.may_commit(self._wait_s) for partition, known in self._offsets.items()}
        places = [
            TopicPartition(*partition, offset)
            for partition, offset in reached.items()
            if self._committed.get(partition) != offset
        ]
        if not places:
            return
        try:
            committed = consumer.commit(offsets=places, asynchronous=asynchronous)
        except KafkaException as error:
            self._told_of_commit(error)
        else:
            self._note_commit(None, committed or [])

    def _note_commit(self, error: Any, partitions: list[Any]) -> None:
        if error is not None:
            self._told_of_commit(error)
            return
        for one in partitions:
            if one.error is None:
                self._committed[one.topic, one.partition] = one.offset

    def _note_reached(self) -> None:
        self._note_at = time.monotonic() + _NOTE_EVERY_S
        try:
            self._known.reached(self._committed)
        except OSError as error:
            self._told_of_commit(error)

    def _told_of_commit(self, error: Any) -> None:
        self._reminders.tell(
            "commit", logging.WARNING, "How far Kafka was read cannot be kept; it is tried again: %s", error
        )

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:
        self._commit(consumer)
        self._note_reached()
        self._lost(consumer, partitions)

    def _lost(self, consumer: Any, partitions: list[Any]) -> None:
        for one in partitions:
            self._offsets.pop((one.topic, one.partition), None)
            self._committed.pop((one.topic, one.partition), None)

    def _tell(self, error: Any) -> None:
        from confluent_kafka import KafkaException

        if error.fatal():
            raise KafkaException(error)
        self._away(error.str())

    def _away(self, reason: str) -> None:
        self._is_away = True
        self._reminders.tell(
            "away",
            logging.WARNING,
            "Kafka at %s cannot be used: %s. What is published meanwhile is read when it is back.",
            self._config.get("bootstrap.servers"),
            reason,
        )


def _named(topic: str, names: Iterable[str]) -> bool:
    return any(re.match(one, topic) if one.startswith("^") else one == topic for one in names)


class _ClientLog:
    """Takes what Kafka's client logs, which tells of each attempt: while a broker is away, twenty times a second.

    Parameters
    ----------
    reminders : Reminders
        Log each trouble once an hour.
    """

    def __init__(self, reminders: Reminders) -> None:
        self._reminders = reminders

    def log(self, level: int, message: str, *values: object) -> None:
        """Log a line, unless its like was logged in the last hour."""
        self._reminders.tell(_OF_ONE_ATTEMPT.sub("", message % values), level, message, *values)
