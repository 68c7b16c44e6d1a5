"""Flow runs, asked of Prefect's API."""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

from bluesky_prefect.core import (
    DeploymentMissing,
    PrefectUnavailable,
    Submission,
    SubmissionRefused,
    comparable_url,
    decline_telemetry,
    prefect_url,
    user_in_url,
    without_user,
)
from bluesky_prefect.prefect_api._api_errors import (
    NO_API,
    current_api_url,
    explain_missing,
    prefect_errors,
    raise_if_to_be_asked_later,
    require_readable,
    said,
)
from bluesky_prefect.prefect_api._flow_run_name import flow_run_name, flow_run_tags
from bluesky_prefect.prefect_api._inventory import ask_with, named_deployments
from bluesky_prefect.prefect_api._notifications import Notifications
from bluesky_prefect.prefect_api._parameter_size import explained_size
from bluesky_prefect.prefect_api._parameters import parameters_for
from bluesky_prefect.prefect_api._work_queues import WorkQueues

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import DeploymentResponse

# A deployment may be changed at any time; a burst of runs need not ask for it each time.
_DEPLOYMENT_AGE_S = 30.0
# As Prefect's own client has it.
_CONNECT_RETRIES = 3
# A new flow run is scheduled for now; this leaves time for a slow request.
_NEW_S = 60.0
# By so much two clocks may differ that agree: a server tells the time in whole seconds, and says it late.
SAME_TIME_S = 5.0


@dataclass(frozen=True)
class FlowRunRef:
    """The flow run that Prefect made, or already had for the same key.

    Attributes
    ----------
    id, name : str
        Prefect's own.
    is_new : bool
        False if Prefect had it before.
    expected_start_s : float
        Its expected start, by its maker's clock, in seconds since the epoch; 0 if it has none.
    """

    id: str
    name: str
    is_new: bool = True
    expected_start_s: float = 0.0


class PrefectApi:
    """Creates flow runs from submissions.

    The address and the credentials are Prefect's own settings (``PREFECT_API_URL`` and so on, or its active profile).
    A context manager: entering imports Prefect, which takes seconds, and raises `PrefectUnavailable` if the address
    cannot be read.

    Parameters
    ----------
    timeout_s : float
        How long one request may take, in seconds.
    client_retries : bool, optional
        Whether Prefect's own client asks a busy server again, for some seconds, before that counts as an outage: for
        those who have nobody else to do it.
    """

    def __init__(self, timeout_s: float, *, client_retries: bool = False) -> None:
        self._timeout_s = timeout_s
        self._asks_again = client_retries
        self._client: SyncPrefectClient | None = None
        self._notifications: Notifications | None = None
        self._deployments: dict[str, tuple[float, DeploymentResponse]] = {}
        self._work_queues = WorkQueues()
        self._resources = ExitStack()
        # What the server's clock said when it last answered, and this machine's monotonic clock.
        self._server_time: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        require_readable(prefect_url())  # before Prefect, whose own complaint would repeat it
        decline_telemetry()
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        changes = _user_apart()
        if not self._asks_again:
            # Waiting and trying again is the forwarder's, which can be told to stop meanwhile.
            changes[PREFECT_CLIENT_MAX_RETRIES] = 0
        self._resources.enter_context(temporary_settings(changes))
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def api_url(self) -> str | None:
        """Address of the API, in the form by which submissions are told apart; None if none is set."""
        return comparable_url(current_api_url() or "")

    def create_flow_run(self, submission: Submission, *, live: bool = False) -> FlowRunRef:
        """Create the flow run of `submission`, or find it, if an earlier try has created it.

        People who are to be told of its end are told, if they can be: that never keeps it from being created. One that
        is `live`, since its run has just ended, goes before all others that wait for a worker; see `WorkQueues`.

        Raises
        ------
        DeploymentMissing
            If Prefect does not know the deployment.
        SubmissionRefused
            If Prefect will not start the deployment with these parameters.
        PrefectUnavailable
            If Prefect cannot be asked, or cannot answer now; it says whether that concerns this submission alone.
        """
        import httpx
        from prefect.exceptions import ObjectNotFound

        began = time.monotonic()
        try:
            with prefect_errors():
                flow_run = self._create(submission, live=live)
        except PrefectUnavailable as error:
            error.submission_specific = self._is_well_otherwise(submission.deployment, error, began)
            raise
        except ObjectNotFound as error:
            raise self._missing(submission.deployment) from error
        except httpx.HTTPStatusError as error:
            self._deployments.pop(submission.deployment, None)  # it may have been changed or made anew
            if error.response.status_code == 404:
                raise self._missing(submission.deployment) from error
            raise SubmissionRefused(
                f"Prefect refuses to start {submission.deployment} ({error.response.status_code}): {said(error)}"
                + explained_size(submission)
            ) from error
        self.prepare_notifications(submission.notify)
        return flow_run

    def tell(self, submission: Submission) -> None:
        """Have Prefect's server tell people that a run failed; see `Notifications.tell`.

        Raises
        ------
        DeploymentMissing
            If there is no notification block of that name.
        SubmissionRefused
            If Prefect will not take such events.
        PrefectUnavailable
            If Prefect cannot be asked, or cannot answer now; that says nothing about flow runs.
        """
        import httpx

        try:
            notifications = self._prepared_notifications(self.client)
            with prefect_errors():
                notifications.tell(submission)
        except PrefectUnavailable as error:
            # Flow runs need other parts of the server, may be allowed where events are not, and find an outage out.
            error.submission_specific = True
            raise
        except httpx.HTTPStatusError as error:
            raise SubmissionRefused(
                f"Prefect refuses a message ({error.response.status_code}): {said(error)}"
            ) from error

    def check(self, deployment: str) -> None:
        """Ask Prefect for a deployment, so that what would keep its submissions waiting is known before the first.

        Raises
        ------
        DeploymentMissing, PrefectUnavailable
            If Prefect does not know it, or cannot be asked, or refuses the credentials.
        """
        import httpx
        from prefect.exceptions import ObjectNotFound

        try:
            with prefect_errors():
                self._deployment(self.client, deployment)
        except (ObjectNotFound, httpx.HTTPStatusError) as error:
            raise self._missing(deployment) from error

    def _missing(self, deployment: str) -> DeploymentMissing:
        known: Iterable[str] = ()
        with suppress(Exception):  # it only helps to say more
            known = named_deployments(ask_with(self.client))
        return DeploymentMissing(explain_missing(deployment, known))

    def _is_well_otherwise(self, deployment: str, error: PrefectUnavailable, began: float) -> bool:
        """Tell whether Prefect answers what else it is asked, where an attempt that began then has met a trouble.

        If not, that is raised in its place. Where nothing was answered, another request might hang as long: the next
        attempt, which begins with one, shows that.
        """
        read_at, _ = self._deployments.pop(deployment, (0.0, None))
        if read_at and read_at < began and (error.server_responded or not error.transient):
            self.check(deployment)
            return True
        return read_at >= began

    def prepare_notifications(self, notices: Sequence[str]) -> None:
        """Have Prefect tell people of the ends of flow runs, once it was reached; see `Notifications.prepare`."""
        if notices and self._client is not None:
            self._prepared_notifications(self._client).prepare(notices)

    def _prepared_notifications(self, client: "SyncPrefectClient") -> Notifications:
        self._notifications = self._notifications or Notifications(client, now=self.now)
        return self._notifications

    def _create(self, submission: Submission, *, live: bool) -> FlowRunRef:
        client = self.client
        try:
            deployment, parameters = self._call(client, submission)
        except SubmissionRefused:
            # By what was read a while ago; somebody may have changed it since.
            del self._deployments[submission.deployment]
            deployment, parameters = self._call(client, submission)
        flow_run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=parameters,
            name=flow_run_name(submission),
            tags=flow_run_tags(submission),
            idempotency_key=submission.key,
            state=self._due_now(),
            work_queue_name=self._work_queues.choose(client, deployment, live=live),
        )
        expected = flow_run.expected_start_time
        return FlowRunRef(
            id=str(flow_run.id),
            name=flow_run.name,
            is_new=_is_new(flow_run, self._server_now() or time.time()),
            expected_start_s=expected.timestamp() if expected else 0.0,
        )

    def _call(self, client: "SyncPrefectClient", submission: Submission) -> "tuple[DeploymentResponse, dict[str, Any]]":
        """Return the deployment to start, and with which parameters."""
        deployment = self._deployment(client, submission.deployment)
        schema = deployment.parameter_openapi_schema or {}
        return deployment, parameters_for(submission, schema, deployment.parameters)

    def _deployment(self, client: "SyncPrefectClient", name: str) -> "DeploymentResponse":
        read_at, deployment = self._deployments.pop(name, (0.0, None))
        if deployment is None or time.monotonic() - read_at > _DEPLOYMENT_AGE_S:
            deployment = client.read_deployment_by_name(name)
            read_at = time.monotonic()
        self._deployments[name] = (read_at, deployment)
        return deployment

    def now(self) -> float:
        """Return the present time by the server's clock, in seconds since the epoch: its timestamps compare with that.

        By this machine's clock, if the server's answers hold no time. Raises `PrefectUnavailable` if Prefect cannot be
        asked.
        """
        if self._server_time is None:
            with prefect_errors():
                self.client.hello()
        return self._server_now() or time.time()

    def _server_now(self) -> float | None:
        if self._server_time is None:
            return None
        then, at = self._server_time
        return then + time.monotonic() - at

    def _due_now(self) -> "State | None":
        """Return the state of a flow run that is due now, where Prefect's client would date it by a wrong clock.

        By a clock that is ahead of the server's, a flow run would wait until the server's clock is there too.
        """
        from prefect.states import Scheduled

        now = self._server_now()
        if now is None or abs(time.time() - now) < SAME_TIME_S:
            return None
        return Scheduled(scheduled_time=datetime.fromtimestamp(now, UTC))

    def _note_time(self, response: "httpx.Response") -> None:
        with suppress(KeyError, ValueError):
            then = parsedate_to_datetime(response.headers["date"])
            self._server_time = then.timestamp(), time.monotonic()

    @property
    def client(self) -> "SyncPrefectClient":
        """Prefect's own client; what goes wrong when it is used is sorted by `prefect_errors`.

        Raises `PrefectUnavailable` if no address is configured.
        """
        import prefect.main  # completes models that the client needs; before Prefect 3.6 nothing else does  # noqa: F401
        from prefect.client.orchestration import get_client

        from bluesky_prefect.prefect_api._deadline import prefect_transport  # of httpx, which is imported with Prefect

        if self._client is None:
            if not current_api_url():
                raise PrefectUnavailable(NO_API, transient=False)
            # Prefect's client sleeps after these answers even if it is told not to retry; the hook is called before.
            hooks = {"response": [self._note_time, *([] if self._asks_again else [raise_if_to_be_asked_later])]}
            made = prefect_transport(self._timeout_s, retries=_CONNECT_RETRIES if self._asks_again else 0)
            client = get_client(sync_client=True, httpx_settings={**made, "event_hooks": hooks})
            self._client = self._resources.enter_context(client)
        return self._client


def _is_new(flow_run: "FlowRun", now: float) -> bool:
    expected = flow_run.expected_start_time
    if expected is not None and abs(now - expected.timestamp()) > _NEW_S:
        return False
    return flow_run.state is None or flow_run.state.is_scheduled()


def _user_apart() -> dict[Any, Any]:
    """Return the settings that take user and password out of the address, which httpx logs at each request."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    url = PREFECT_API_URL.value() or ""
    require_readable(url)  # it may stand in a prefect.toml
    if not (user := user_in_url(url)):
        return {}
    return {PREFECT_API_URL: without_user(url), PREFECT_API_AUTH_STRING: PREFECT_API_AUTH_STRING.value() or user}
