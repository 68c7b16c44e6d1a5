"""Which database Prefect's server gets: what people may write, what is remembered, and what nobody may see."""

import socket
import sys

import pytest
from pydantic import SecretStr

from bluesky_prefect.core import ConfigurationError, Settings, StackError
from bluesky_prefect.stack._database import VARIABLE, choose_database, parse_database, present_database
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._prefect import PrefectServer
from bluesky_prefect.stack._process import start_process, stop_processes
from bluesky_prefect.stack._worker import settings_environment

ASYNC = "postgresql+asyncpg://me:s3cret@db:5433/prefect"


@pytest.fixture
def paths(tmp_path):
    return StackPaths(tmp_path)


@pytest.fixture
def start_server(paths):
    """Start what looks like a running Prefect server on a database."""
    started = []

    def start(database):
        environment = PrefectServer(paths, 0, "user:pass", database).environment()
        code = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(start_process(code, environment, directory=paths.root, log=paths.root / "log", port=None))
        return started[-1]

    yield start
    stop_processes(started, timeout_s=1)


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql", "postgres"])
def test_prefect_gets_the_driver_it_needs(paths, scheme):
    database = parse_database(SecretStr(f"{scheme}://me:s3cret@db:5433/prefect"), paths)
    assert database.environment() == {VARIABLE: ASYNC}
    assert database.title == "PostgreSQL, database prefect at db:5433"


def test_a_password_with_special_characters_stays_as_it_is(paths):
    url = "postgresql+asyncpg://me:a%40b%2Fc%3A@db/prefect?ssl=require"
    assert parse_database(SecretStr(url), paths).environment() == {VARIABLE: url}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:s3cret@db/prefect", "mysql"),
        ("postgresql+psycopg2://me:s3cret@db/prefect", "psycopg2"),
        ("postgresql://me:s3cret@db", "names no database"),
        ("me:s3cret@db", "is none"),
        ("postgresql://me:s3cret@db:port/prefect", "is none"),
    ],
)
def test_what_prefect_cannot_use_is_refused_with_what_to_write(paths, url, said):
    with pytest.raises(ConfigurationError, match=r"postgresql\+asyncpg://user@host") as caught:
        parse_database(SecretStr(url), paths)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
    # Nor in a traceback.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_password_is_in_nothing_that_is_printed_or_handed_to_flow_runs(paths):
    settings = Settings(state_directory=paths.root, prefect_database_url=ASYNC)
    database = parse_database(settings.prefect_database_url, paths)
    server = PrefectServer(paths, 4200, "bluesky:s3cret", database)
    for shown in (settings, database, server, server.command(), settings_environment(settings)):
        assert "s3cret" not in repr(shown)


def test_nothing_said_is_the_stack_s_own_file(paths):
    database = choose_database(None, paths, None, print)
    assert database.is_sqlite
    assert str(paths.prefect / "prefect.db") in database.environment()[VARIABLE]
    assert not paths.database_url.exists()


def test_a_running_server_says_itself_which_database_it_has(paths, start_server):
    server = start_server(parse_database(SecretStr(ASYNC), paths))
    assert present_database(paths, server).environment() == {VARIABLE: ASYNC}
    assert choose_database(None, paths, server, print).environment() == {VARIABLE: ASYNC}


def test_a_running_server_is_not_moved_to_another_database(paths, start_server):
    on_sqlite = start_server(None)
    with pytest.raises(
        StackError, match=r"runs on SQLite.*PostgreSQL, database prefect.*bluesky-prefect down"
    ) as caught:
        choose_database(SecretStr(ASYNC), paths, on_sqlite, print)
    assert "s3cret" not in str(caught.value)
    on_postgres = start_server(parse_database(SecretStr(ASYNC), paths))
    with pytest.raises(StackError, match="runs on PostgreSQL"):
        choose_database(SecretStr("sqlite"), paths, on_postgres, print)
    # Another way to the same one.
    other_user = SecretStr("postgresql://you@db:5433/prefect")
    assert choose_database(other_user, paths, on_postgres, print).environment() == {VARIABLE: ASYNC}


def test_a_server_that_does_not_answer_is_told_and_nothing_is_remembered(paths):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://me:s3cret@127.0.0.1:{nobody.getsockname()[1]}/prefect"
        with pytest.raises(StackError, match="nobody answers there") as caught:
            choose_database(SecretStr(url), paths, None, print)
    assert "s3cret" not in str(caught.value)
    assert not paths.database_url.exists()


def test_a_changed_password_is_not_another_database(paths):
    one, other = (parse_database(SecretStr(f"postgresql://me:{word}@db/prefect"), paths) for word in ("a", "b"))
    assert one.title == other.title
