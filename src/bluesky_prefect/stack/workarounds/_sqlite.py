"""Transactions of Prefect's server on SQLite: each waits for its turn, where Prefect alone lets them fail."""

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.exc import OperationalError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

# Longer than any transaction that is not stuck, shorter than a client of Prefect waits for an answer (60 s).
TURN_TIMEOUT_S = 30.0
_TURN = "bluesky_prefect_turn"
_BEGIN = ("BEGIN DEFERRED", "BEGIN IMMEDIATE")


class WriteTurns(CreateEnginePlugin):
    """Plugin of SQLAlchemy, named in the database's address as ``?plugin=bluesky_prefect``.

    Prefect begins most transactions in SQLite's mode DEFERRED. One that has read and then wants to write, while
    another one writes, is refused at once: SQLite cannot let it wait, since it would see old data afterwards. So
    each transaction begins in the mode IMMEDIATE here, which takes the right to write first.

    Who wants to write waits for it in the event loop, in the order of coming. In SQLite itself it would wait by
    polling, in no order, for up to 60 s, and Prefect's server as a whole has been seen to stand still for as long.

    Reads outside of transactions, as those for the UI, wait for nobody. Nor does a task that has begun a transaction
    and reads in a second one meanwhile, as Prefect does where a work queue is paused: it would wait for itself.
    """

    def update_url(self, url: "URL") -> "URL":
        """Return the address as it is: nothing in it is for this plugin."""
        return url

    def engine_created(self, engine: "Engine") -> None:
        """Listen to what the engine does."""
        turn = asyncio.Lock()
        whose: list[asyncio.Task[Any] | None] = [None]

        async def take(_: Any) -> None:
            try:
                async with asyncio.timeout(TURN_TIMEOUT_S):
                    await turn.acquire()
            except TimeoutError:
                # As if SQLite had said it: Prefect's API answers 503, and clients try again.
                locked = sqlite3.OperationalError("database is locked")
                raise OperationalError("BEGIN IMMEDIATE", None, locked) from None
            whose[0] = asyncio.current_task()

        def before(
            connection: "Connection", _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool
        ) -> tuple[str, Any]:
            begins = statement in _BEGIN
            if begins and turn.locked() and whose[0] is asyncio.current_task():
                return "BEGIN DEFERRED", parameters
            # Prefect writes events and task runs without a BEGIN of its own.
            writes = begins or context.isinsert or context.isupdate or context.isdelete
            if (writes or statement.startswith("SAVEPOINT ")) and _TURN not in connection.info:
                connection.connection.dbapi_connection.run_async(take)  # type: ignore[reportOptionalMemberAccess]
                connection.info[_TURN] = True
            return "BEGIN IMMEDIATE" if begins else statement, parameters

        def after(connection: "Connection", *_: Any) -> None:
            # Each of those may be a transaction by itself, or have begun one: only SQLite knows.
            if not connection.connection.driver_connection.in_transaction:  # type: ignore[reportOptionalMemberAccess]
                give(connection.info)

        def failed(context: "ExceptionContext") -> None:
            if context.connection is not None and not context.is_disconnect:
                after(context.connection)

        def checkin(_: Any, record: "ConnectionPoolEntry") -> None:
            # The pool has ended the transaction, however it went, also if its request was cancelled.
            give(record.info)

        def give(info: dict[Any, Any]) -> None:
            if info.pop(_TURN, False):
                whose[0] = None
                turn.release()

        event.listen(engine, "before_cursor_execute", before, retval=True)
        event.listen(engine, "after_cursor_execute", after)
        event.listen(engine, "handle_error", failed)
        event.listen(engine, "checkin", checkin)
