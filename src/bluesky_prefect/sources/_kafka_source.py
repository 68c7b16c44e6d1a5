"""Documents from Kafka, as bluesky-kafka publishes them."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import ConfigurationError, Settings, error_line, uid_text
from bluesky_prefect.sources._documents import hand_over, read_document
from bluesky_prefect.sources._offsets import PartitionOffsets
from bluesky_prefect.sources._refused_messages import RefusedMessages

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_COMMIT_EVERY_S = 1.0
_AGAIN_S = 1.0
# A listener that takes the place of one that was killed waits for that long.
_DEFAULTS = {"session.timeout.ms": 10_000}
# What is decided here, and by nobody's configuration file.
_OWN = {"enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest"}


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
    ) -> None:
        self._callback = callback
        self._wait_s = settings.open_after_s
        self._topics = list(topics)
        self._refused = refused
        self._config = dict(config)
        self._from_beginning = from_beginning
        self._offsets: dict[tuple[str, int], PartitionOffsets] = {}
        self._is_new_group: bool | None = None
        self._committed: dict[tuple[str, int], int] = {}
        self._commit_at = 0.0
        self._told: set[int] = set()

    def run(self, finish: threading.Event) -> None:
        """Hand over documents until `finish` is set; an outage of Kafka is waited out.

        Raises
        ------
        ConfigurationError
            If Kafka's client does not take its settings.
        """
        from confluent_kafka import Consumer, KafkaException

        try:
            consumer = Consumer(
                {**_DEFAULTS, **self._config, **_OWN, "error_cb": self._tell}, logger=logging.getLogger("kafka")
            )
            consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigurationError(f"Kafka's client does not take its settings: {error_line(error)}.") from error
        logger.info("Listening to %s of Kafka as group %s", ", ".join(self._topics), self._config.get("group.id"))
        try:
            while not finish.is_set():
                self._take(consumer, consumer.poll(_POLL_S), finish)
                if time.monotonic() >= self._commit_at:
                    self._commit(consumer, asynchronous=True)
            self._commit(consumer)
        finally:
            consumer.close()

    def _take(self, consumer: Any, message: Any, finish: threading.Event) -> None:
        if message is None:
            return
        if message.error():
            self._tell(message.error())
            return
        self._told.clear()
        partition, offset = (message.topic(), message.partition()), message.offset()
        known = self._offsets.setdefault(partition, PartitionOffsets(offset))
        time_ms = max(0, message.timestamp()[1])
        content = message.value() or b""
        try:
            name, doc = read_document(content, "msgpack")
            if name == "start":
                known.start(uid_text(doc["uid"]), offset, time_ms)
            hand_over(self._callback, name, doc)
            if name == "stop":
                known.stop(uid_text(doc.get("run_start")))
                self._commit_at = 0.0
        except Exception as error:  # noqa: BLE001 - a decoder that meets garbage raises anything
            place = {"topic": partition[0], "partition": partition[1], "offset": offset}
            while not finish.is_set():
                try:
                    self._refused.put(content, error_line(error), **place)
                    break
                except OSError as trouble:
                    logger.error("A message cannot be set aside; nothing else is read until it can: %s", trouble)
                    consumer.poll(0)
                    finish.wait(_AGAIN_S)
            else:
                return
        known.handled(offset, time_ms)

    def _commit(self, consumer: Any, *, asynchronous: bool = False) -> None:
        """Commit how far this group has come, if all of that is on disk."""
        from confluent_kafka import KafkaException, TopicPartition

        self._commit_at = time.monotonic() + _COMMIT_EVERY_S
        if not self._callback.has_all_on_disk:
            return
        reached = {partition: known.may_commit(self._wait_s) for partition, known in self._offsets.items()}
        news = {partition: offset for partition, offset in reached.items() if self._committed.get(partition) != offset}
        if not news:
            return
        try:
            consumer.commit(
                offsets=[TopicPartition(*one, offset) for one, offset in news.items()], asynchronous=asynchronous
            )
            self._committed |= news
        except KafkaException as error:
            logger.warning("How far Kafka was read cannot be kept; what comes is read again if need be: %s", error)

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        """Begin where the group has been, or keep where it begins: it must not begin later because it was killed."""
        from confluent_kafka import KafkaException

        try:
            committed = consumer.committed(partitions, timeout=10)
            if self._is_new_group is None:
                self._is_new_group = all(one.offset < 0 for one in committed)
            first = []
            for one in committed:
                if one.offset < 0:
                    low, high = consumer.get_watermark_offsets(one, timeout=10)
                    one.offset = high if self._is_new_group and not self._from_beginning else low
                    first.append(one)
            # A topic that comes later is read from its beginning.
            self._is_new_group = self._is_new_group and not committed
            if first:
                consumer.commit(offsets=first, asynchronous=False)
            consumer.assign(committed)
        except KafkaException as error:
            logger.error("Where to begin in Kafka is not known; it is read from the beginning: %s", error)
            consumer.assign(partitions)

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:
        self._commit(consumer)
        self._lost(consumer, partitions)

    def _lost(self, consumer: Any, partitions: list[Any]) -> None:
        for one in partitions:
            self._offsets.pop((one.topic, one.partition), None)
            self._committed.pop((one.topic, one.partition), None)

    def _tell(self, error: Any) -> None:
        if error.code() not in self._told:
            self._told.add(error.code())
            logger.warning("Kafka: %s. What is published meanwhile is read when it is back.", error.str())
