"""A database of a test's own on the PostgreSQL server of this machine."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

SERVER = "postgres@127.0.0.1:5432"


@contextmanager
def empty_database() -> Iterator[str | None]:
    """Make a database, give its address as SQLAlchemy takes it, and drop it; None on a laptop without PostgreSQL."""
    name = f"bluesky_prefect_{secrets.token_hex(4)}"
    try:
        asyncio.run(_execute(f"CREATE DATABASE {name}"))
    except (OSError, asyncpg.PostgresError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have a PostgreSQL server at {SERVER}: {error}")
        yield None
        return
    try:
        yield f"postgresql+asyncpg://{SERVER}/{name}"
    finally:
        asyncio.run(_execute(f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(statement: str) -> None:
    connection = await asyncpg.connect(f"postgresql://{SERVER}/postgres", timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
