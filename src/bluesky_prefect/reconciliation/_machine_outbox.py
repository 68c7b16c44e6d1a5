"""The outbox of this machine, which explains why Prefect has not heard of a run."""

import logging
from collections.abc import Iterator

from bluesky_prefect.core import OutboxError, Workflow, key_parts, submission_key
from bluesky_prefect.outbox import Entry, Outbox
from bluesky_prefect.reconciliation._diagnosis import RunState
from bluesky_prefect.reconciliation._report import Finding

logger = logging.getLogger(__name__)


class MachineOutbox:
    """The outbox of this machine, if there is one. One that cannot be read explains nothing, and a warning says so."""

    def __init__(self, outbox: Outbox | None) -> None:
        self._outbox = outbox

    def entry(self, run_uid: str, workflow: Workflow) -> Entry | None:
        """Return what the outbox holds of a workflow's first flow run on a run, under any of the workflow's names."""
        try:
            entries = self._outbox.entries(run_uid=run_uid) if self._outbox else []
        except OutboxError as error:
            logger.warning("Run %s: what the outbox holds of it is not known: %s", run_uid, error)
            return None
        by_key = {entry.key: entry for entry in entries}
        keys = (submission_key(run_uid, name) for name in workflow.names)
        return next((by_key[key] for key in keys if key in by_key), None)

    def name_of(self, run_uid: str, workflow: Workflow) -> str | None:
        """Return the name, of all that a workflow has, under which `entry` is found; None if there is none."""
        entry = self.entry(run_uid, workflow)
        # The key has it even where a newer version wrote the rest.
        parts = key_parts(entry.key) if entry else None
        return parts[1] if parts else None

    def dead_letters(self) -> Iterator[Finding]:
        """Yield a finding for each dead letter."""
        try:
            entries = self._outbox.entries(state="dead") if self._outbox else []
        except OutboxError as error:
            logger.warning("Dead letters are not known: %s", error)
            return
        for entry in entries:
            if entry.is_message:
                continue  # of no workflow; 'outbox list' shows it
            known = entry.run_uid, entry.scan_id, entry.plan_name, entry.workflow
            yield Finding(*known, RunState.DEAD, entry.created, entry.reason or "")
