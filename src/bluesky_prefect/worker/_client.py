"""The client by which the base class of a worker asks Prefect."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx
import tenacity
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.exceptions import Abort

from bluesky_prefect.worker._flow_runs import FlowRunsInHand

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Flow, State
    from prefect.client.schemas.responses import DeploymentResponse, WorkerFlowRunResponse

T = TypeVar("T")

# How long a server that answers 503, or not at all, is asked again before a flow run counts as crashed.
PATIENCE_S = 180.0
_LONGEST_WAIT_S = 10.0

# Deployments that were read for the flow run that is being submitted. They may change from one to the next.
_read: ContextVar[dict[UUID, Any] | None] = ContextVar("_read", default=None)


class WorkerClient:
    """Prefect's client, with fewer calls and more patience where a worker makes the same calls for each flow run.

    Parameters
    ----------
    client : PrefectClient
        The client.
    in_hand : FlowRunsInHand
        The worker's flow runs.
    has_room : callable
        Whether there is room for another flow run; otherwise none is asked for.
    select : callable
        Return those of the scheduled flow runs that are to be submitted now.
    on_proposed : callable
        Called with a flow run's id, a proposed state, and whether Prefect has accepted it.
    """

    def __init__(
        self,
        client: PrefectClient,
        in_hand: FlowRunsInHand,
        *,
        has_room: Callable[[], bool],
        select: "Callable[[list[WorkerFlowRunResponse]], list[WorkerFlowRunResponse]]",
        on_proposed: "Callable[[UUID, State, bool], None]",
    ) -> None:
        self.wraps = self._client = client
        self._in_hand = in_hand
        self._has_room = has_room
        self._select = select
        self._on_proposed = on_proposed
        # They grow in number by new code alone.
        self._flows: dict[UUID, Flow] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get_scheduled_flow_runs_for_work_pool(self, *args: Any, **kwargs: Any) -> "list[WorkerFlowRunResponse]":
        """Return the scheduled flow runs that are to be submitted now."""
        if not self._has_room():
            return []
        return self._select(await self._client.get_scheduled_flow_runs_for_work_pool(*args, **kwargs))

    async def read_deployment(self, deployment_id: UUID) -> "DeploymentResponse | None":
        """Read a deployment, once for each flow run.

        The base class reads it twice. Of the first time it only wants to know that it exists, and ends the whole worker
        if Prefect cannot say; the second time, the flow run has crashed.
        """
        if (read := _read.get()) is None:
            _read.set({})
            try:
                return await self.read_deployment(deployment_id)
            except httpx.HTTPError:
                return None
        if deployment_id not in read:
            read[deployment_id] = await retry_transient(lambda: self._client.read_deployment(deployment_id))
        return read[deployment_id]

    async def read_flow(self, flow_id: UUID) -> "Flow":
        """Read a flow, of which nothing ever changes."""
        if flow_id not in self._flows:
            self._flows[flow_id] = await retry_transient(lambda: self._client.read_flow(flow_id))
        return self._flows[flow_id]

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: "State[Any]", force: bool = False
    ) -> OrchestrationResult[Any]:
        """Propose a state, but for "Submitting", which would be over before anybody sees it.

        Raises
        ------
        Abort
            If it is a crash of a flow run that is scheduled again already.
        """
        if state.name == "Submitting":
            return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())
        if state.is_crashed() and self._in_hand.is_again(flow_run_id):
            self._on_proposed(flow_run_id, state, False)
            raise Abort("It is scheduled again.")

        def propose() -> Awaitable[OrchestrationResult[Any]]:
            return self._client.set_flow_run_state(flow_run_id, state, force=force)

        # A proposal to be pending that was heard and not answered must not be repeated: it would be refused.
        proposal = asyncio.ensure_future(propose() if state.is_pending() else retry_transient(propose))
        if state.is_pending():
            self._in_hand.propose(flow_run_id, proposal)
        else:
            self._in_hand.withdraw(flow_run_id)
        accepted = False
        try:
            # If the worker stops meanwhile, it has to know what came of it.
            result = await asyncio.shield(proposal)
            accepted = result.status == SetStateStatus.ACCEPT
            if accepted and state.is_pending() and result.state is not None:
                self._in_hand.accept(flow_run_id, result.state.timestamp)
        finally:
            if not accepted and proposal.done():
                self._in_hand.withdraw(flow_run_id)
            self._on_proposed(flow_run_id, state, accepted)
        return result


def is_transient(error: BaseException) -> bool:
    """Tell whether the server may give another answer later."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, httpx.TransportError)


async def retry_transient(call: Callable[[], Awaitable[T]]) -> T:
    """Call until it succeeds, or fails in a way that waiting does not cure."""
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_random_exponential(multiplier=0.25, max=_LONGEST_WAIT_S),
        stop=tenacity.stop_after_delay(PATIENCE_S),
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError  # not reached
