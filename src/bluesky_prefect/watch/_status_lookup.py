"""Status of given workflows of given runs."""

from collections.abc import Iterable, Sequence

from bluesky_prefect.core import submission_key
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.prefect_api import History, PrefectApi, Wanted
from bluesky_prefect.watch._workflow_status import WorkflowStatus, from_entry, from_flow_run


class StatusLookup:
    """Status of workflows of runs, from Prefect or, where it knows nothing, from outboxes.

    Of several flow runs of one workflow on one run, the last one counts: it was made because those before it did not
    do.

    Parameters
    ----------
    api : PrefectApi
        Open; its errors are those of `of`.
    outboxes : sequence of Outbox
        Only looked at.
    """

    def __init__(self, api: PrefectApi, outboxes: Sequence[Outbox]) -> None:
        self._history = History(api)
        self._outboxes = outboxes

    def of(self, wanted: Iterable[Wanted], since_s: float) -> dict[Wanted, WorkflowStatus | None]:
        """Return how each workflow is doing; None for one that nobody knows of.

        Parameters
        ----------
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
        entries = {one: self._entry(*one) for one in wanted}
        histories = self._history.flow_runs(entries, since_s)
        found: dict[Wanted, WorkflowStatus | None] = {}
        for one, entry in entries.items():
            if flow_runs := histories[one]:
                found[one] = from_flow_run(flow_runs[-1])
            else:
                found[one] = from_entry(entry) if entry else None
        return found

    def _entry(self, run_uid: str, workflow: str) -> Entry | None:
        key = submission_key(run_uid, workflow)
        entries = (entry for outbox in self._outboxes for entry in outbox.entries(run_uid=run_uid) if entry.key == key)
        return next(entries, None)
