"""The flow run that makes a result."""

import asyncio
import logging
from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.context import SyncClientContext
from prefect.runtime import flow_run

from bluesky_prefect.core import MadeBy, as_json, error_line, jsonable, on_daemon_thread
from bluesky_prefect.flows.common._artifacts import MAX_S

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

# A start document may be a parameter; who wants to see it finds it in Tiled.
_MAX_CHARACTERS = 2_000


def made_by() -> MadeBy | None:
    """Return the flow run that this is a part of, the outermost one; None where there is none.

    Asks Prefect, once for each flow run, and waits some seconds for it. If Prefect does not tell, a warning says so,
    and only what is known here is returned.
    """
    if not (flow_run_id := flow_run.get_id()):
        return None
    try:
        return on_daemon_thread(copy_context().run, _asked, flow_run_id).result(MAX_S)
    except TimeoutError:
        logger.warning("Prefect does not tell in %g s what made this (flow run %s)", MAX_S, flow_run_id)
    except Exception as error:  # noqa: BLE001 - the result counts, not what made it; the client raises many kinds
        logger.warning("Prefect does not tell what made this (flow run %s): %s", flow_run_id, error_line(error))
    return _known_here()


async def made_by_in_time() -> MadeBy | None:
    """Return what `made_by` does, while the event loop goes on."""
    return await asyncio.to_thread(made_by)


def _known_here() -> MadeBy:
    return MadeBy(flow_run_id=flow_run.get_id() or "", flow_run_name=flow_run.get_name() or "")


@lru_cache(maxsize=16)
def _asked(flow_run_id: str) -> MadeBy:
    with SyncClientContext.get_or_create() as context:
        client = context.client
        outermost = _outermost(client, client.read_flow_run(UUID(flow_run_id)))
        flow = client.read_flow(outermost.flow_id).name
        deployment = None
        if outermost.deployment_id is not None:
            deployment = f"{flow}/{client.read_deployment(outermost.deployment_id).name}"
    return MadeBy(
        flow_run_id=str(outermost.id),
        flow_run_name=outermost.name,
        flow=flow,
        deployment=deployment,
        parameters={name: _short(value) for name, value in outermost.parameters.items()},
    )


def _outermost(client: "SyncPrefectClient", inner: "FlowRun") -> "FlowRun":
    while inner.parent_task_run_id is not None:
        parent = client.read_task_run(inner.parent_task_run_id).flow_run_id
        if parent is None:
            break
        inner = client.read_flow_run(parent)
    return inner


def _short(value: Any) -> Any:
    value = jsonable(value)
    length = len(as_json(value))
    return value if length <= _MAX_CHARACTERS else f"<left out: {length} characters>"
