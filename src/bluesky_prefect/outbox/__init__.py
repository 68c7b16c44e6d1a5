"""Submissions on disk until Prefect has accepted them."""

from bluesky_prefect.outbox._entry import Draft, Entry, OutboxCounts, State
from bluesky_prefect.outbox._entry_lookup import SHORTEST_UID
from bluesky_prefect.outbox._outbox import PRUNED_AT_ONCE, Outbox, existing_outbox
from bluesky_prefect.outbox._stopped_runs import StoppedRun, stopped_runs

__all__ = [
    "PRUNED_AT_ONCE",
    "SHORTEST_UID",
    "Draft",
    "Entry",
    "Outbox",
    "OutboxCounts",
    "State",
    "StoppedRun",
    "existing_outbox",
    "stopped_runs",
]
