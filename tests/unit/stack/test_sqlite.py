"""Transactions on SQLite as Prefect's server makes them: they wait for each other, and nobody waits for ever."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from prefect.server.api.server import is_client_retryable_exception
from sqlalchemy import Column, Integer, MetaData, Table, event, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from bluesky_prefect.stack.workarounds import _sqlite as sqlite

COUNTER = Table("counter", MetaData(), Column("id", Integer, primary_key=True), Column("value", Integer))


@asynccontextmanager
async def engine(path, query="?plugin=bluesky_prefect"):
    """Make an engine as Prefect does: it says itself where a transaction begins."""
    made = create_async_engine(f"sqlite+aiosqlite:///{path}{query}")

    @event.listens_for(made.sync_engine, "connect")
    def own_transactions(connection, _):
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA busy_timeout = 60000")
        cursor.close()

    try:
        async with made.connect() as connection:
            await connection.run_sync(COUNTER.metadata.create_all)
            await connection.execute(insert(COUNTER).values(id=1, value=0))
            await connection.commit()
        yield made
    finally:
        await made.dispose()


async def begun(connection):
    await connection.exec_driver_sql("BEGIN DEFERRED")


async def count_up(made):
    """Read, then write what was read, as Prefect does with a flow run's state."""
    async with made.connect() as connection:
        await begun(connection)
        value = (await connection.execute(select(COUNTER.c.value))).scalar()
        await asyncio.sleep(0)
        await connection.execute(update(COUNTER).values(value=value + 1))
        await connection.commit()


async def value(made):
    async with made.connect() as connection:
        return (await connection.execute(select(COUNTER.c.value))).scalar()


def test_transactions_that_read_and_then_write_at_once_all_succeed(tmp_path):
    async def main():
        async with engine(tmp_path / "a.db") as made:
            await asyncio.gather(*(count_up(made) for _ in range(50)))
            return await value(made)

    assert asyncio.run(main()) == 50


def test_without_the_plugin_sqlite_refuses_some(tmp_path):
    async def main():
        async with engine(tmp_path / "a.db", query="") as made:
            return await asyncio.gather(*(count_up(made) for _ in range(50)), return_exceptions=True)

    assert any(isinstance(one, OperationalError) for one in asyncio.run(main()))


def test_a_write_outside_of_a_transaction_waits_and_gives_its_turn_away(tmp_path):
    async def main():
        async with engine(tmp_path / "a.db") as made, made.connect() as first, made.connect() as second:
            await begun(first)
            waiting = asyncio.create_task(second.execute(update(COUNTER).values(value=7)))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await first.close()
            await waiting
            # The second one is still open: its statement was the whole transaction.
            await count_up(made)
            return await value(made)

    assert asyncio.run(main()) == 8


def test_a_savepoint_outside_of_a_transaction_is_one(tmp_path):
    async def main():
        async with engine(tmp_path / "a.db") as made, made.connect() as first:
            await first.exec_driver_sql("SAVEPOINT one")
            await first.execute(update(COUNTER).values(value=7))
            waiting = asyncio.create_task(count_up(made))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await first.execute(update(COUNTER).values(value=8))
            await first.exec_driver_sql("RELEASE one")
            await waiting
            return await value(made)

    assert asyncio.run(main()) == 9


def test_who_only_reads_waits_for_nobody(tmp_path):
    async def main():
        async with engine(tmp_path / "a.db") as made, made.connect() as writer:
            await begun(writer)
            await writer.execute(update(COUNTER).values(value=7))
            return await value(made)

    assert asyncio.run(main()) == 0


def test_who_reads_in_a_second_transaction_does_not_wait_for_its_first(tmp_path):
    async def main():
        async with engine(tmp_path / "a.db") as made:
            async with made.connect() as first:
                await begun(first)
                await first.execute(update(COUNTER).values(value=7))
                async with made.connect() as second:
                    await begun(second)
                    seen = (await second.execute(select(COUNTER.c.value))).scalar()
                # The first still has its turn.
                waiting = asyncio.create_task(count_up(made))
                await asyncio.sleep(0.05)
                assert not waiting.done()
                await first.commit()
            await waiting
            return seen, await value(made)

    assert asyncio.run(asyncio.wait_for(main(), 20)) == (0, 8)


@pytest.mark.parametrize("when", ["waiting", "writing"])
def test_a_request_that_is_cancelled_leaves_the_turn_to_the_next_one(tmp_path, when):
    async def hold(made, holds):
        async with made.connect() as connection:
            await begun(connection)
            holds.set()
            await asyncio.sleep(60)

    async def main():
        async with engine(tmp_path / "a.db") as made:
            holds, waits = asyncio.Event(), asyncio.Event()
            holder = asyncio.create_task(hold(made, holds))
            await holds.wait()
            waiting = asyncio.create_task(hold(made, waits))
            await asyncio.sleep(0.05)
            assert not waits.is_set()
            order = [waiting, holder] if when == "waiting" else [holder, waiting]
            for task in order:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await count_up(made)
            return await value(made)

    assert asyncio.run(main()) == 1


def test_who_waits_too_long_is_told_that_the_database_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "TURN_TIMEOUT_S", 0.05)

    async def main():
        async with engine(tmp_path / "a.db") as made, made.connect() as connection:
            await begun(connection)
            with pytest.raises(OperationalError) as caught:
                await count_up(made)
            # What Prefect's API answers 503 to, so that its clients try again.
            assert is_client_retryable_exception(caught.value)
            await connection.close()
            await count_up(made)
            return await value(made)

    assert asyncio.run(main()) == 1


def test_what_went_wrong_in_a_transaction_leaves_the_turn_to_the_next_one(tmp_path):
    async def go_wrong(made):
        async with made.connect() as connection:
            await begun(connection)
            await connection.execute(text("UPDATE nowhere SET value = 1"))

    async def main():
        async with engine(tmp_path / "a.db") as made:
            with pytest.raises(OperationalError, match="no such table"):
                await go_wrong(made)
            await count_up(made)
            return await value(made)

    assert asyncio.run(main()) == 1
