"""Messages about failed runs: an event of each, on which Prefect's server acts."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from bluesky_prefect.core import Submission, printable, run_name
from bluesky_prefect.prefect_api._message_text import REASON_LENGTH, as_text

if TYPE_CHECKING:
    from prefect.events import Event
    from prefect.events.schemas.automations import EventTrigger

_EVENT = "bluesky.run.failed"
_RESOURCE = "bluesky.run."
# Who asks again after a lost answer, or has put the same run in another outbox, does so long before.
_TOLD_ONCE_WITHIN = timedelta(days=1)
_LENGTH = 200
_LINES = {
    "Scan id": "scan_id",
    "Plan": "plan_name",
    "Run": "uid",
    "Exit status": "exit_status",
    "Reason": "reason",
    "Stopped": "stopped",
}
SUBJECT = as_text("event.payload.name") + ": run " + as_text("event.payload.exit_status")
BODY = "\n".join(f"{title}: {as_text(f'event.payload.{name}')}" for title, name in _LINES.items())


def run_failure_trigger(tag: str) -> "EventTrigger":
    """Return what waits for events with a tag, and acts once on each run."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    return EventTrigger(
        posture=Posture.Reactive,
        expect={_EVENT},
        match={"prefect.resource.id": f"{_RESOURCE}*"},  # type: ignore[reportArgumentType]
        match_related={"prefect.resource.id": f"prefect.tag.{tag}"},  # type: ignore[reportArgumentType]
        for_each={"prefect.resource.id"},
        within=_TOLD_ONCE_WITHIN,
    )


def run_failure_event(submission: Submission, tag: str) -> "Event":
    """Return the event of a failed run; the same run and tag give the same one."""
    from prefect.events import Event, RelatedResource, Resource

    run = submission.run
    stopped = _time(run.time_s)
    name = run_name(run.scan_id, run.plan_name, run.uid)
    resource = {"prefect.resource.id": printable(f"{_RESOURCE}{run.uid}")[:_LENGTH], "prefect.resource.name": name}
    known = {
        "name": name,
        "scan_id": run.scan_id,
        "plan_name": run.plan_name,
        "uid": run.uid,
        "exit_status": {"abort": "aborted", "fail": "failed"}.get(run.exit_status or ""),
        "stopped": f"{stopped.astimezone():%Y-%m-%d %H:%M:%S %Z}",
    }
    payload = {key: "unknown" if value is None else printable(f"{value}")[:_LENGTH] for key, value in known.items()}
    payload["reason"] = printable(str(run.stop.get("reason") or "none given"))[:REASON_LENGTH]
    return Event(
        id=uuid5(NAMESPACE_URL, f"{_EVENT}:{submission.key}"),
        occurred=stopped,  # type: ignore[reportArgumentType] - Prefect's own subclass of datetime, or not
        event=_EVENT,
        resource=Resource(resource),
        related=[RelatedResource({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"})],
        payload=payload,
    )


def _time(time_s: float) -> datetime:
    with suppress(ValueError, OverflowError, OSError):  # documents hold any number
        return datetime.fromtimestamp(time_s, UTC)
    return datetime.fromtimestamp(time.time(), UTC)
