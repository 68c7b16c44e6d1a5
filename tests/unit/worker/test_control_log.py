"""What strangers can have a worker's log filled with, by Prefect's own listener."""

import asyncio
import logging

from prefect.runner._control_channel import ControlChannel

from bluesky_prefect.worker._control_log import LOGGER, OncePerMinute


async def knock(port: int, what: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(what + b"\n")
    assert await reader.read() == b""
    writer.close()


def test_strangers_who_connect_often_are_counted_once_a_minute(monkeypatch):
    now, lines = [1000.0], []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    bounded = OncePerMinute(lambda: now[0])
    logger = logging.getLogger(LOGGER)
    monkeypatch.setattr(logger, "filters", [bounded])
    monkeypatch.setattr(logger, "handlers", [handler])

    async def test() -> None:
        async with ControlChannel() as channel:
            for _ in range(10):
                await knock(channel.port, b"garbage")
                await knock(channel.port, b"x" * 100_000)
            now[0] += 60.0
            await knock(channel.port, b"garbage")

    asyncio.run(test())
    first, other, later = lines
    assert "rejected unauthenticated connection" in first
    assert "Unexpected error" in other
    assert later == f"{first} (and 9 more since the last line like this)"


def test_what_is_no_warning_is_never_held_back():
    bounded = OncePerMinute(lambda: 0.0)
    record = logging.LogRecord(LOGGER, logging.DEBUG, "", 0, "listening", None, None)
    assert [bounded.filter(record) for _ in range(3)] == [True] * 3
