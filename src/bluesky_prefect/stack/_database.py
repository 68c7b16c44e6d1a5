"""The database that the stack's Prefect server keeps its flow runs in."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import SecretStr

from bluesky_prefect.core import ConfigurationError, StackError, write_whole
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._process import ManagedProcess

# The setting of Prefect's server that holds the address.
VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
SETTING = "--database-url or BLUESKY_PREFECT_PREFECT_DATABASE_URL"
# In place of an address: the file that the stack makes by itself.
SQLITE = "sqlite"

_POSTGRES = "postgresql+asyncpg"
_CONNECT_TIMEOUT_S = 5.0
_EXAMPLE = f"{_POSTGRES}://user@host:5432/database"
# See bluesky_prefect.stack.workarounds._sqlite.
_TURNS = "?plugin=bluesky_prefect"


@dataclass(frozen=True)
class PrefectDatabase:
    """A database: its address, and what messages call it.

    The address may hold a password; the title holds neither that nor a user.
    """

    url: SecretStr
    title: str

    @property
    def is_sqlite(self) -> bool:
        """True if it is the file that the stack makes by itself."""
        return self.title == "SQLite"

    def environment(self) -> dict[str, str]:
        """Return the setting of Prefect's server; it may hold a password: hand it to a process, never to a log."""
        return {VARIABLE: self.url.get_secret_value()}


def sqlite_database(paths: StackPaths) -> PrefectDatabase:
    """Return the file that the stack makes by itself."""
    return PrefectDatabase(SecretStr(f"sqlite+aiosqlite:///{paths.prefect / 'prefect.db'}{_TURNS}"), "SQLite")


def parse_database(url: SecretStr, paths: StackPaths) -> PrefectDatabase:
    """Return the database of an address, or of the word ``sqlite``.

    Raises
    ------
    ConfigurationError
        If it is neither; does not repeat it, since it may hold a password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    value = url.get_secret_value().strip()
    if value == SQLITE:
        return sqlite_database(paths)
    try:
        parts = make_url(value)
    except (ArgumentError, ValueError):
        # Not chained: the cause may repeat the address.
        raise ConfigurationError(
            f"The address of Prefect's database is none. Write {_EXAMPLE}, or {SQLITE}, in {SETTING}."
        ) from None
    if parts.drivername in ("postgresql", "postgres"):
        parts = parts.set(drivername=_POSTGRES)
    if parts.drivername != _POSTGRES:
        raise ConfigurationError(
            f"Prefect does not work with a database of the kind {parts.drivername}://. "
            f"Write {_EXAMPLE}, or {SQLITE}, in {SETTING}."
        )
    if not parts.database:
        raise ConfigurationError(f"The address of Prefect's database names no database. Write {_EXAMPLE} in {SETTING}.")
    host = parts.host or parts.query.get("host") or "localhost"
    title = f"PostgreSQL, database {parts.database} at {host}:{parts.port or 5432}"
    return PrefectDatabase(SecretStr(parts.render_as_string(hide_password=False)), title)


def present_database(paths: StackPaths, process: ManagedProcess | None) -> PrefectDatabase:
    """Return the database of a running Prefect server, or the one that the next server will have if nothing is said."""
    running = process.variable(VARIABLE) if process is not None and process.is_alive() else None
    if running is not None and not running.startswith(SQLITE):
        return parse_database(SecretStr(running), paths)
    if running is not None:
        return sqlite_database(paths)
    try:
        return parse_database(SecretStr(paths.database_url.read_text()), paths)
    except (OSError, ConfigurationError):
        return sqlite_database(paths)


def choose_database(
    wanted: SecretStr | None, paths: StackPaths, process: ManagedProcess | None, report: Callable[[str], None]
) -> PrefectDatabase:
    """Return the database to use: the one that is wanted, else that of the running server, else the last one.

    The choice is remembered among the paths for the next start. `report` is told, for a server that is to be started,
    where its flow runs will be.

    Raises
    ------
    ConfigurationError
        If what is set is no address of a database.
    StackError
        If the server runs on another one, or could not use the one that is wanted.
    """
    present = present_database(paths, process)
    database = present if wanted is None else parse_database(wanted, paths)
    if process is not None:
        if database.title != present.title:
            raise StackError(
                f"The Prefect server runs on {present.title}, with flow runs that {database.title} does not know. "
                "To change over, stop the stack first: bluesky-prefect down"
            )
        return present
    require_database(database)
    if database.title != present.title and (not present.is_sqlite or (paths.prefect / "prefect.db").exists()):
        report(
            f"Prefect server: now on {database.title}. The flow runs on {present.title} stay there. Runs of the last "
            "24 hours are processed once more, since nothing is known of them here"
        )
    elif not database.is_sqlite:
        report(f"Prefect server: on {database.title}")
    # Before the server starts: whoever goes on with a start that was interrupted has the same database.
    if database.is_sqlite:
        paths.database_url.unlink(missing_ok=True)
    else:
        write_whole(paths.database_url, (database.url.get_secret_value() + "\n").encode(), private=True)
    return database


def require_database(database: PrefectDatabase) -> None:
    """Refuse a PostgreSQL database that Prefect could not use, before Prefect spends a minute on finding out.

    Raises a `StackError` that says what to do if it cannot be reached, is not there, or does not let the user in.
    """
    if database.is_sqlite:
        return
    import asyncpg
    from sqlalchemy.exc import SQLAlchemyError

    unusable = (OSError, TypeError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)
    try:
        # On a thread of its own: a notebook has an event loop on this one.
        with ThreadPoolExecutor(1) as thread:
            may_create = thread.submit(asyncio.run, _ask(database)).result()
    except unusable as error:
        # Not chained: what a driver says of its arguments may hold the password.
        raise StackError(_explain(database, list(_chain(error)))) from None
    if not may_create:
        raise StackError(
            f"{database.title}: its user may not make tables there. Let a user of its own have the database, "
            "for example with: psql -c 'ALTER DATABASE <database> OWNER TO <user>'"
        )


async def _ask(database: PrefectDatabase) -> bool:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    # The way in which Prefect's server itself connects.
    engine = create_async_engine(
        database.url.get_secret_value(), poolclass=NullPool, connect_args={"timeout": _CONNECT_TIMEOUT_S}
    )
    try:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')"))
            return bool(found.scalar())
    finally:
        await engine.dispose()


def _explain(database: PrefectDatabase, causes: list[BaseException]) -> str:
    import asyncpg
    from sqlalchemy.engine import make_url

    parts = make_url(database.url.get_secret_value())
    server = f"-h {parts.host} " * bool(parts.host) + f"-p {parts.port} " * bool(parts.port)
    user = f"-U {parts.username} " * bool(parts.username)
    for cause in causes:
        if isinstance(cause, asyncpg.InvalidCatalogNameError):
            return f"{database.title}: it is not there. Make it with: createdb {server}{user}{parts.database}"
        if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
            named = f"user {parts.username}" if parts.username else "the user of this session"
            return (
                f"{database.title}: it does not let {named} in. Check user and password in {SETTING}, or in ~/.pgpass."
            )
        if isinstance(cause, asyncpg.PostgresError):
            return f"{database.title}: it refuses ({type(cause).__name__}). Check {SETTING}."
        if isinstance(cause, OSError):
            return (
                f"{database.title}: nobody answers there ({cause.strerror or type(cause).__name__}). "
                f"Start it, or check the address in {SETTING}; {SQLITE} goes back to the stack's own file."
            )
        if isinstance(cause, TypeError):
            names = ", ".join(parts.query)
            return f"{database.title}: the driver does not know one of the options {names} in {SETTING}."
    return f"{database.title}: it cannot be used ({type(causes[0]).__name__}). Check {SETTING}."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Go from an error to what was behind it: SQLAlchemy wraps the driver's, and the driver the system's."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__
