"""Status of given workflows of given runs."""

from collections.abc import Iterable, Sequence

from bluesky_prefect.core import submission_key
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.prefect_api import PastFlowRun, PrefectApi, Wanted, past_flow_runs
from bluesky_prefect.watch._workflow_status import WorkflowStatus, from_entry, from_flow_run


def lookup_statuses(
    api: PrefectApi, outboxes: Sequence[Outbox], wanted: Iterable[Wanted], since_s: float
) -> dict[Wanted, WorkflowStatus | None]:
    """Return the status of each workflow, from Prefect or else from an outbox; None for one that nobody knows of.

    Of several flow runs of one workflow on one run, the last one counts: it was made because those before it did not
    do.

    Parameters
    ----------
    api : PrefectApi
        Open.
    outboxes : sequence of Outbox
        Only looked at.
    wanted : iterable of (str, str)
        Uids of runs, with the name of a workflow each.
    since_s : float
        When the first of these runs stopped, in seconds since the epoch.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    OutboxError
        If an outbox cannot be read.
    """
    # The outbox first: what it has called sent by then, and Prefect does not know afterwards, is gone.
    entries = {one: _entry(outboxes, *one) for one in wanted}
    found = past_flow_runs(api, entries, since_s)
    return {one: _status(found[one], entry) for one, entry in entries.items()}


def _status(flow_runs: Sequence[PastFlowRun], entry: Entry | None) -> WorkflowStatus | None:
    if flow_runs:
        return from_flow_run(flow_runs[-1])
    return from_entry(entry) if entry else None


def _entry(outboxes: Sequence[Outbox], run_uid: str, workflow: str) -> Entry | None:
    key = submission_key(run_uid, workflow)
    entries = (entry for outbox in outboxes for entry in outbox.entries(run_uid=run_uid) if entry.key == key)
    return next(entries, None)
