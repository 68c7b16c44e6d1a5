"""Waiting until what was sent from here is done."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bluesky_prefect.core import FlowTimeout, PrefectUnavailable, Settings, counted, get_settings
from bluesky_prefect.outbox import Outbox, existing_outbox
from bluesky_prefect.prefect_api import PrefectApi, Wanted
from bluesky_prefect.watch._status_lookup import lookup_statuses
from bluesky_prefect.watch._workflow_status import WorkflowStatus

POLL_S = 1.0
# Older submissions than that are no longer waited for, and more than that not looked at.
_RECENT_S = 86400.0
_MOST = 1000

Report = Callable[[Sequence[WorkflowStatus], int, str], None]


@dataclass
class AlreadyTold:
    """Ends of flow runs that somebody knows who waits again and again.

    Attributes
    ----------
    before_s : float
        They were not there when runs stopped before that, in seconds since the epoch.
    flow_runs : dict
        By uid and workflow, the flow run whose end they know; one that was made after it is news. Kept by
        `wait_for_flow_runs`.
    """

    before_s: float = math.inf
    flow_runs: dict[Wanted, str | None] = field(default_factory=dict)


def wait_for_flow_runs(
    timeout_s: float | None = None,
    *,
    settings: Settings | None = None,
    report: Report = lambda ended, total, problem: None,
    told: AlreadyTold | None = None,
    explain: Callable[[PrefectUnavailable], str] = str,
    clock: Callable[[], float] = time.monotonic,
) -> list[WorkflowStatus]:
    """Wait until no submission of this machine's outbox waits, and no flow run of the last day is under way.

    While Prefect is away, that is waited for too.

    Parameters
    ----------
    timeout_s : float, optional
        How long at most, in seconds; for ever by default.
    settings : Settings, optional
        Where the outbox is; from the environment by default.
    report : callable
        Told at each look which have ended, how many there are, and why Prefect cannot be asked (empty if it can).
    told : AlreadyTold, optional
        What is known already; by default all that has ended.
    explain : callable
        Says why Prefect cannot be asked.
    clock : callable
        Gives a time in seconds that never jumps.

    Returns
    -------
    list of WorkflowStatus
        Those that were waited for, as they ended, and what had ended before and is not known.

    Raises
    ------
    FlowTimeout
        If they have not all ended in time.
    OutboxError
        If the outbox cannot be read.
    """
    settings = settings or get_settings()
    deadline = None if timeout_s is None else clock() + timeout_s
    with ExitStack() as opened:
        outbox = opened.enter_context(existing_outbox(settings.outbox_path))
        if outbox is None:
            return []
        api = opened.enter_context(PrefectApi(settings.request_timeout_s))
        waited = _Waited(api, outbox, told or AlreadyTold(), explain)
        while True:
            problem = waited.look()
            report(waited.ended, waited.total, problem)
            if not waited.left and not problem:
                waited.tell()
                return waited.ended
            if deadline is not None and clock() >= deadline:
                raise FlowTimeout(_timed_out(waited.left, f"after {timeout_s:g} s", problem))
            time.sleep(POLL_S)


def _timed_out(left: int, after: str, problem: str) -> str:
    flow_runs, go_on = counted(left, "flow run"), "it continues" if left == 1 else "they continue"
    if problem:
        return f"The state of {flow_runs} is unknown {after}. {problem}"
    return f"{flow_runs} still running {after}; {go_on}."


class _Waited:
    """Workflows to wait for, and how many have ended."""

    def __init__(
        self, api: PrefectApi, outbox: Outbox, told: AlreadyTold, explain: Callable[[PrefectUnavailable], str]
    ) -> None:
        self._api, self._outbox, self._told, self._explain = api, outbox, told, explain
        self._since_s = time.time() - _RECENT_S
        put_in = dict(_recent(outbox, self._since_s, api.api_url))
        self._left = dict.fromkeys(put_in)
        self._before = {one for one, at in put_in.items() if at < told.before_s}
        # What was under way at some look.
        self._waited_for: set[Wanted] = set()
        self._found: dict[Wanted, str | None] = {}
        self.ended: list[WorkflowStatus] = []

    @property
    def left(self) -> int:
        return len(self._left)

    @property
    def total(self) -> int:
        return len(self._left) + len(self.ended)

    def look(self) -> str:
        """Look once; return why Prefect cannot be asked, empty if it can."""
        try:
            found = lookup_statuses(self._api, [self._outbox], list(self._left), self._since_s)
        except PrefectUnavailable as error:
            return self._explain(error)
        for one, status in found.items():
            if status is None or status.ended:
                del self._left[one]
                if status is not None:
                    self._found[one] = status.flow_run_id
                    if not self._is_known(one, status):
                        self.ended.append(status)
        self._waited_for |= set(self._left)
        return ""

    def tell(self) -> None:
        """Note that all of it is known now."""
        self._told.flow_runs |= self._found

    def _is_known(self, one: Wanted, status: WorkflowStatus) -> bool:
        if one in self._waited_for:
            return False
        if one in self._told.flow_runs:
            return self._told.flow_runs[one] == status.flow_run_id
        return one in self._before


def _recent(outbox: Outbox, since_s: float, api_url: str | None) -> Iterator[tuple[Wanted, float]]:
    """Yield what is to be waited for, and when it was put in."""
    for entry in outbox.entries(state="waiting", limit=_MOST):
        if (
            entry.api_url in (None, api_url) and not entry.is_message
        ):  # what is for another server is sent by another session
            yield (entry.run_uid, entry.workflow), entry.created
    for entry in outbox.entries(state="sent", limit=_MOST):
        if entry.changed >= since_s and not entry.is_message:
            yield (entry.run_uid, entry.workflow), entry.created
