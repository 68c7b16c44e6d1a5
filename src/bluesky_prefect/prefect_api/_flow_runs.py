"""The flow runs of runs, found by their keys.

Each function that asks Prefect raises `PrefectUnavailable` if that is not possible.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bluesky_prefect.core import key_parts, submission_key
from bluesky_prefect.prefect_api._client import PrefectApi, prefect_errors
from bluesky_prefect.prefect_api._states import FAILED_STATES, is_final

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, Log, StateType
    from prefect.events.filters import EventFilter
    from prefect.events.schemas.events import ReceivedEvent

# (uid of the run, name of the workflow)
Wanted = tuple[str, str]

# Prefect's own limit for one answer (PREFECT_SERVER_API_DEFAULT_LIMIT).
_PAGE = 200
# Which generations are asked for at once. Most runs have the first and no second; beyond that, more at a time.
_GENERATIONS = (range(2), range(2, 10), range(10, 50), range(50, 250))
# So many in a row may have been deleted by hand, before one that is there. Each more would cost the runs that are given
# up another request every time.
_DELETED = 3
_HEARTBEAT = "prefect.flow-run.heartbeat"
# The most that Prefect gives at once. They come in the order of their senders' clocks.
_EVENTS = 50
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)
# A flow run is made after its run stopped; so far may the clocks of the machines be apart.
_CLOCKS_APART_S = 86400.0
# Parameters by which flows are told a run.
_NAMES_OF_RUNS = {"ref", "uid", "run_uid", "scan_uid", "scan_id", "start_doc"}


@dataclass(frozen=True)
class PastFlowRun:
    """A flow run that was made for a run, as Prefect has it now.

    Attributes
    ----------
    generation : int
        Which time it was that the workflow was started on the run, from 0.
    id, name : str
        Prefect's own.
    state_type, state : str
        Type and name of its state, for example ``SCHEDULED`` and ``Late``.
    message : str
        What the state says.
    changed : float
        When it came into that state (where it is scheduled: when it was due), by the server's clock, in seconds since
        the epoch.
    parameters : Mapping
        What it was started with.
    tags : tuple of str
        By which people find it; see `bluesky_prefect.prefect_api.flow_run_tags`.
    created : float
        When it was made, in seconds since the epoch.
    run_s : float
        How long it has been running, in seconds.
    work_pool, work_queue : str or None
        Where it is to be executed, and in which of its queues it waits for that.
    worker : str or None
        Name of the worker that took it, where that has said so.
    run_uid, workflow : str
        The run and the workflow that it was made for.
    """

    generation: int
    id: str
    name: str
    state_type: str
    state: str
    message: str
    changed: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    created: float = 0.0
    run_s: float = 0.0
    work_pool: str | None = None
    work_queue: str | None = None
    worker: str | None = None
    run_uid: str = ""
    workflow: str = ""

    @property
    def failed(self) -> bool:
        """True if it failed or crashed."""
        return self.state_type in FAILED_STATES

    @property
    def unsuccessful(self) -> bool:
        """True if it has ended, and not well; one that was cancelled has, too."""
        return is_final(self.state_type) and self.state_type != "COMPLETED"


@dataclass(frozen=True)
class SignsOfLife:
    """The last that was heard of a flow run, and of those within it.

    Attributes
    ----------
    last : float or None
        When the server last received an event or a log line of it, in seconds since the epoch; None if it never did.
    heartbeats : bool
        Whether it has ever sent a heartbeat, so that being silent means something.
    events : int
        How many events it has emitted: one more is a sign of life, whatever clock dates it.
    """

    last: float | None
    heartbeats: bool
    events: int = 0


def past_flow_runs(
    api: PrefectApi,
    wanted: Iterable[Wanted],
    since_s: float,
    *,
    former: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[Wanted, tuple[PastFlowRun, ...]]:
    """Return the flow runs of each run and workflow, in the order of their generations; none, if there is none.

    What this costs grows with how much is asked for.

    Parameters
    ----------
    wanted : iterable of (str, str)
        Uids of runs, with the name of a workflow each.
    since_s : float
        When the first of these runs stopped, in seconds since the epoch.
    former : mapping, optional
        The former names of workflows, which are looked up and returned as well.
    """
    same = [[(uid, one) for one in (name, *former.get(name, ()))] for uid, name in wanted]
    alike = {one: group for group in same for one in group}
    found: dict[Wanted, dict[int, PastFlowRun]] = {one: {} for one in alike}
    left = list(found)
    for generations in _GENERATIONS:
        _look_up(api, left, generations, since_s, found)
        # Without a first flow run there may be later ones, if old ones are deleted.
        left = [
            one for one in left if _may_go_on(found[one], generations) or not any(found[other] for other in alike[one])
        ]
    return {one: tuple(found[one][generation] for generation in sorted(found[one])) for one in found}


def flow_run_with_id(api: PrefectApi, flow_run_id: str) -> PastFlowRun | None:
    """Return a flow run; None if Prefect has no such one."""
    from prefect.exceptions import ObjectNotFound

    with prefect_errors(), suppress(ObjectNotFound, ValueError):  # that is no UUID
        return past_flow_run(api.client.read_flow_run(UUID(flow_run_id)))
    return None


def signs_of_life(api: PrefectApi, flow_run_id: str) -> SignsOfLife:
    """Return what was last heard of a flow run."""
    client = api.client
    with prefect_errors():
        within = child_flow_runs(client, flow_run_id)
        ids = [UUID(flow_run_id), *(child.id for child in within)]
        events, total = _read_events(client, _events_of(ids), _EVENTS)
        heartbeats = any(event.event == _HEARTBEAT for event in events) or bool(
            _read_events(client, _events_of(ids, _HEARTBEAT), 1)[0]
        )
        lines = _read_last_line(client, ids)
    moments = [event.received for event in events] + [line.created or line.timestamp for line in lines]
    moments += [child.state.timestamp for child in within if child.state]
    last = max((one.timestamp() for one in moments), default=None)
    return SignsOfLife(last, heartbeats, total)


def made_after(since_s: float) -> datetime:
    """Return the moment before which no flow run was made of runs that stopped at `since_s` (since the epoch) or later.

    A time that lies ahead of now, such as one in milliseconds, tells nothing: that is the beginning of time then.
    """
    return datetime.fromtimestamp(0.0 if lies_ahead(since_s) else max(since_s - _CLOCKS_APART_S, 0.0), UTC)


def lies_ahead(time_s: float) -> bool:
    """Tell whether a time, in seconds since the epoch, is further ahead of now than clocks are apart."""
    return not time_s <= time.time() + _CLOCKS_APART_S  # so is NaN


def past_flow_run(flow_run: "FlowRun") -> PastFlowRun:
    """Return what is known of a flow run, made for a run, that Prefect's client has read."""
    run_uid, workflow, generation = key_parts(flow_run.idempotency_key or "") or ("", "", 0)
    state = flow_run.state
    changed = (state.timestamp if state else None) or flow_run.expected_start_time or flow_run.created
    if state and state.is_scheduled() and (due := state.state_details.scheduled_time):
        # That is what the clock of those said who made it.
        changed = max(due, flow_run.created or due)
    return PastFlowRun(
        generation=generation,
        id=str(flow_run.id),
        name=flow_run.name,
        state_type=state.type.value if state else "SCHEDULED",
        state=(state.name if state else None) or "Unknown",
        message=(state.message if state else None) or "",
        changed=changed.timestamp() if changed else 0.0,
        parameters=flow_run.parameters,
        tags=tuple(flow_run.tags),
        created=flow_run.created.timestamp() if flow_run.created else 0.0,
        run_s=flow_run.estimated_run_time.total_seconds(),
        work_pool=flow_run.work_pool_name,
        work_queue=flow_run.work_queue_name,
        worker=str(worker) if (worker := flow_run.labels.get("prefect.worker.name")) else None,
        run_uid=run_uid,
        workflow=workflow,
    )


def is_of_run(tags: Iterable[str], parameters: Mapping[str, Any]) -> bool:
    """Tell whether a flow run came of a run: made for it, or by hand with a parameter that names it."""
    return any(tag.startswith("uid:") for tag in tags) or not _NAMES_OF_RUNS.isdisjoint(parameters)


def child_flow_runs(client: "SyncPrefectClient", flow_run_id: str, *states: "StateType") -> "list[FlowRun]":
    """Return the newest flow runs within a flow run, those in some types of states or all."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    asked: dict[str, Any] = {"parent_flow_run_id": {"any_": [flow_run_id]}}
    if states:
        asked["state"] = {"type": {"any_": states}}
    newest = FlowRunSort.START_TIME_DESC
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(asked), limit=_PAGE, sort=newest)


def _look_up(
    api: PrefectApi,
    wanted: Sequence[Wanted],
    generations: range,
    since_s: float,
    found: dict[Wanted, dict[int, PastFlowRun]],
) -> None:
    keys = [submission_key(*one, generation) for one in wanted for generation in generations]
    for begin in range(0, len(keys), _PAGE):
        for past in map(past_flow_run, _by_keys(api, keys[begin : begin + _PAGE], since_s)):
            found[past.run_uid, past.workflow][past.generation] = past


def _by_keys(api: PrefectApi, keys: list[str], since_s: float) -> "list[FlowRun]":
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterIdempotencyKey,
    )

    # The time is for the database, which has an index of it, and none of the key alone.
    asked = FlowRunFilter(
        idempotency_key=FlowRunFilterIdempotencyKey(any_=keys),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"after_": made_after(since_s)}),
    )
    with prefect_errors():
        return api.client.read_flow_runs(flow_run_filter=asked, limit=_PAGE)


def _events_of(ids: Iterable[UUID], *names: str) -> "EventFilter":
    from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter

    return EventFilter(
        # Prefect's default is this machine's present time: events dated later, by another clock, would be left out.
        occurred=EventOccurredFilter.model_validate({"until": _END_OF_TIME}),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{one}" for one in ids]),
        event=EventNameFilter(name=list(names)) if names else None,
    )


# The client's own read_events came with Prefect 3.7. That and read_logs send all that they know of a filter, if only as
# null, which servers refuse that are older than it.
def _read_events(client: "SyncPrefectClient", wanted: "EventFilter", limit: int) -> "tuple[list[ReceivedEvent], int]":
    """Return the newest events, and how many there are in all."""
    from prefect.events.schemas.events import ReceivedEvent

    content = {"filter": wanted.model_dump(mode="json", exclude_unset=True), "limit": limit}
    page = client.request("POST", "/events/filter", json=content).json()
    return [ReceivedEvent.model_validate(event) for event in page["events"]], page["total"]


def _read_last_line(client: "SyncPrefectClient", ids: Iterable[UUID]) -> "list[Log]":
    """Return the newest line in the logs of flow runs, if there is one."""
    from prefect.client.schemas.objects import Log

    wanted = {"flow_run_id": {"any_": [str(one) for one in ids]}}
    content = {"logs": wanted, "sort": "TIMESTAMP_DESC", "limit": 1}
    return [Log.model_validate(line) for line in client.request("POST", "/logs/filter", json=content).json()]


def _may_go_on(found: Mapping[int, PastFlowRun], asked: range) -> bool:
    """Tell whether there may be generations after those asked for, the last of which may have been deleted."""
    if not found:
        return False
    last = found[max(found)]
    gap = asked[-1] - last.generation
    return gap == 0 or (gap <= _DELETED and last.unsuccessful)
