"""The ends that reconciliation puts to flow runs, so that none goes on beside the next one."""

from typing import TYPE_CHECKING
from uuid import UUID

from bluesky_prefect.prefect_api import (
    PastFlowRun,
    PrefectApi,
    child_flow_runs,
    given_parameters,
    past_flow_run,
    prefect_errors,
)

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


class Endings:
    """Ends flow runs that have ended without a word. The errors of `api` are those of all methods here.

    Each method returns False if the flow run is not as it was: then nothing may be started beside it, before it has
    been looked at again.
    """

    def __init__(self, api: PrefectApi) -> None:
        self._api = api

    def mark_crashed(self, flow_run_id: str, message: str) -> bool:
        """Say that a flow run has crashed, and so have those within it that claim to be running.

        Prefect does not accept that if one of them has ended meanwhile.
        """
        from prefect.client.schemas.objects import StateType
        from prefect.client.schemas.responses import SetStateStatus
        from prefect.exceptions import ObjectNotFound
        from prefect.states import Crashed

        client = self._api.client
        try:
            with prefect_errors():
                # Those within it first: what ends there at this moment is a sign of life.
                within = child_flow_runs(client, flow_run_id, StateType.PENDING, StateType.RUNNING)
                return all(
                    client.set_flow_run_state(one, Crashed(message=message)).status is SetStateStatus.ACCEPT
                    for one in (*(child.id for child in within), UUID(flow_run_id))
                )
        except ObjectNotFound:
            return False

    def supersede(self, flow_run: PastFlowRun, message: str) -> bool:
        """Put a crashed flow run in the place of one that is pending, so that its process cannot begin any more.

        Prefect lets a crashed flow run begin, if its process comes up late; one that was deleted it does not know. The
        new one has the same key, so that nobody makes that generation again. It is not done if the flow run has
        changed, or somebody else was faster.
        """
        import httpx
        from prefect.exceptions import ObjectNotFound

        client = self._api.client
        try:
            with prefect_errors():
                found = client.read_flow_run(UUID(flow_run.id))
                if past_flow_run(found) != flow_run:
                    return False
                client.delete_flow_run(found.id)
                return self._record(found, message)
        except (ObjectNotFound, httpx.HTTPStatusError):
            return False

    def _record(self, deleted: "FlowRun", message: str) -> bool:
        from prefect.states import Crashed

        if deleted.deployment_id is None:
            return False
        made = self._api.client.create_flow_run_from_deployment(
            deleted.deployment_id,
            parameters=given_parameters(deleted.parameters),
            name=deleted.name,
            tags=deleted.tags,
            idempotency_key=deleted.idempotency_key,
            state=Crashed(message=message),
        )
        # Whoever has looked in between has made it anew, to be executed.
        return made.state is not None and made.state.is_crashed()
