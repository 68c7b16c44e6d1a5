"""Status of one workflow of one run, from Prefect or the outbox."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bluesky_prefect.outbox import Entry
from bluesky_prefect.prefect_api import FAILED_STATES, PastFlowRun, flow_run_url, is_final, ui_url

# What a submission is that has no flow run; else the state's type is Prefect's own.
WAITING = "WAITING"
DEAD = "DEAD"
GONE = "GONE"
DECLINED = "DECLINED"

_WITHOUT_FLOW_RUN: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "waiting": (WAITING, "Waiting to be sent"),
        "dead": (DEAD, "Dead letter"),
        "sent": (GONE, "Deleted in Prefect"),
        "declined": (DECLINED, "Not wanted"),
    }
)


# What a flow run is called that somebody made by hand, and that has no tags.
_NAMED = re.compile(r"scan-(?P<scan_id>-?[0-9]+)-(?P<plan_name>.*)-[0-9a-f]{8}(-[a-z-]+)?")


@dataclass(frozen=True)
class WorkflowStatus:
    """Status of one workflow of one run.

    Attributes
    ----------
    run_uid : str
        The run; empty if the flow run was made by hand.
    workflow : str
        The workflow's name; empty if the flow run was made by hand.
    scan_id : int or None
        The run's, if known.
    plan_name : str or None
        The run's, if known.
    state_type, state : str
        Type and name of the flow run's state, such as ``SCHEDULED`` and ``Late``. Without a flow run the type is
        ``WAITING`` (to be sent), ``DEAD`` (a dead letter), ``GONE`` (Prefect knows it no more) or ``DECLINED``
        (the workflow did not want the run).
    message : str
        What the state says, or why it waits.
    created : float
        When the flow run was made, or the submission, in seconds since the epoch.
    run_s : float
        How long the flow run has been running, in seconds.
    flow_run_id, flow_run_name, url : str or None
        The flow run, if there is one, and its page in Prefect's UI.
    beamline : str or None
        The beamline that the run was taken at, if it has a name.
    """

    run_uid: str
    workflow: str
    scan_id: int | None
    plan_name: str | None
    state_type: str
    state: str
    message: str
    created: float
    run_s: float = 0.0
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    url: str | None = None
    beamline: str | None = None

    @property
    def ended(self) -> bool:
        """True if nothing more comes of it by itself."""
        return self.state_type in {DEAD, GONE, DECLINED} or is_final(self.state_type)

    @property
    def failed(self) -> bool:
        """True if it ended without success, and nobody wanted that."""
        return self.state_type in {*FAILED_STATES, DEAD}


def from_flow_run(past: PastFlowRun) -> WorkflowStatus:
    """Return what Prefect tells of a workflow."""
    named = _NAMED.fullmatch(past.name)
    tags = (named.groupdict() if named else {}) | dict(tag.split(":", 1) for tag in past.tags if ":" in tag)
    scan_id = tags.get("scan_id", "")
    return WorkflowStatus(
        run_uid=past.run_uid,
        workflow=past.workflow,
        scan_id=int(scan_id) if scan_id.isascii() and scan_id.removeprefix("-").isdecimal() else None,
        plan_name=tags.get("plan_name"),
        state_type=past.state_type,
        state=past.state,
        message=past.message,
        created=past.created,
        run_s=past.run_s,
        flow_run_id=past.id,
        flow_run_name=past.name,
        url=flow_run_url(ui_url(), past.id, failed=past.failed),
        beamline=tags.get("beamline"),
    )


def from_entry(entry: Entry) -> WorkflowStatus:
    """Return what the outbox tells of a workflow that has no flow run."""
    state_type, state = _WITHOUT_FLOW_RUN[entry.state]
    return WorkflowStatus(
        run_uid=entry.run_uid,
        workflow=entry.workflow,
        scan_id=entry.scan_id,
        plan_name=entry.plan_name,
        state_type=state_type,
        state=state,
        message=entry.reason or "",
        created=entry.created,
        flow_run_id=entry.flow_run_id,
        flow_run_name=entry.flow_run_name,
        beamline=entry.beamline,
    )
