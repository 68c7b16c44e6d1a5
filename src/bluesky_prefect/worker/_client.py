"""The worker's client of Prefect's API: it asks once for what it needs to know, and is patient."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx
import tenacity
from prefect.client.orchestration import PrefectClient

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Flow
    from prefect.client.schemas.responses import DeploymentResponse

T = TypeVar("T")

# How long a server that answers 503, or not at all, is asked again before a flow run counts as crashed.
PATIENCE_S = 180.0
_LONGEST_WAIT_S = 10.0
# Flows only ever grow in number by new code.
_FLOWS = 1000

# Deployments that were read for the flow run that is being submitted. They may change from one to the next.
_read: ContextVar[dict[UUID, Any] | None] = ContextVar("_read", default=None)


def begin_submission() -> None:
    """Forget, in this task and those that it starts, what was read before."""
    _read.set({})


class SparingClient:
    """Prefect's client, with fewer and more patient calls where the worker makes the same ones for each flow run.

    Parameters
    ----------
    client : PrefectClient
        The client.
    """

    def __init__(self, client: PrefectClient) -> None:
        self.wraps = self._client = client
        self._flows: dict[UUID, Flow] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def read_deployment(self, deployment_id: UUID) -> "DeploymentResponse":
        """Read a deployment, once for each flow run."""
        read = _read.get()
        if read is not None and deployment_id in read:
            return read[deployment_id]
        deployment = await patiently(lambda: self._client.read_deployment(deployment_id))
        if read is not None:
            read[deployment_id] = deployment
        return deployment

    async def read_flow(self, flow_id: UUID) -> "Flow":
        """Read a flow, of which nothing ever changes."""
        if flow_id not in self._flows:
            if len(self._flows) >= _FLOWS:
                self._flows.clear()
            self._flows[flow_id] = await patiently(lambda: self._client.read_flow(flow_id))
        return self._flows[flow_id]


def is_transient(error: BaseException) -> bool:
    """Tell whether the server may give another answer later."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, httpx.TransportError)


async def patiently(
    call: Callable[[], Awaitable[T]], *, is_worth_it: Callable[[BaseException], bool] = is_transient
) -> T:
    """Call until it succeeds, or fails in a way that waiting does not cure."""
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_worth_it),
        wait=tenacity.wait_random_exponential(multiplier=0.25, max=_LONGEST_WAIT_S),
        stop=tenacity.stop_after_delay(PATIENCE_S),
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError  # not reached
