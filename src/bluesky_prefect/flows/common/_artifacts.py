"""Artifacts: what a flow run shows in Prefect's UI. None of them is worth failing for."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import Artifact, TableArtifact
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from bluesky_prefect.core import error_line, markdown_cell

T = TypeVar("T")

# Prefect's client asks a busy server again and again, for most of a minute.
MAX_S = 10.0
_SHOWN_BY: ContextVar[UUID | None] = ContextVar("shown_by", default=None)


@contextmanager
def artifacts_on_this_page() -> Iterator[None]:
    """Have this flow run show the artifacts of the flow runs within it: links lead to its page, not to theirs."""
    token = _SHOWN_BY.set(UUID(flow_run.get_id()))
    try:
        yield
    finally:
        _SHOWN_BY.reset(token)


async def publish(artifact: Artifact) -> UUID | None:
    """Have an artifact written, on the page that is meant to show it, as `publish_artifact` does; return its id."""
    shown = artifact.model_copy(update={"flow_run_id": _SHOWN_BY.get()})
    made = await publish_artifact(shown.acreate(), artifact.key or "")
    return made.id if made else None


async def publish_artifact(artifact: Coroutine[Any, Any, T], name: str, *, most_s: float = MAX_S) -> T | None:
    """Have an artifact written, and return what that returns; what goes wrong is a warning, and returns None.

    It may take `most_s` seconds. The warning names the artifact.
    """
    try:
        async with asyncio.timeout(most_s):
            return await artifact
    except (httpx.HTTPError, PrefectException, TimeoutError) as error:
        get_run_logger().warning("The artifact %s could not be written: %s", name, error_line(error))
        return None


async def publish_table(rows: Iterable[Mapping[str, Any]], key: str, description: str) -> None:
    """Have a table written whose cells show text that anybody may have typed as it is.

    A row has its cells by the names of the columns; the description is Markdown.
    """
    cells = [
        {name: markdown_cell(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
    await publish(TableArtifact(table=cells, key=key, description=description))
