"""Waiting in a plan for what a flow finds."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from bluesky import plan_stubs as bps
from bluesky.utils import plan

from bluesky_prefect.core import ConfigurationError, get_settings
from bluesky_prefect.outbox import stopped_runs
from bluesky_prefect.plan_stubs._flow_result import FlowResult
from bluesky_prefect.plan_stubs._flow_watcher import FlowWatcher

if TYPE_CHECKING:
    from bluesky.utils import MsgGenerator

# So often there is a checkpoint, at which a pause that was asked for politely (Ctrl-C once) can come.
_CHECKPOINT_S = 1.0


@overload
def wait_for_flow(
    uid: str | None = None, *, workflow: str | None = None, timeout_s: float = 300.0
) -> "MsgGenerator[FlowResult]": ...
@overload
def wait_for_flow(
    uid: Sequence[str], *, workflow: str | None = None, timeout_s: float = 300.0
) -> "MsgGenerator[dict[str, FlowResult]]": ...
@plan
def wait_for_flow(
    uid: str | Sequence[str] | None = None, *, workflow: str | None = None, timeout_s: float = 300.0
) -> "MsgGenerator[Any]":
    """Wait until the workflow of a run has completed, and return what came of it.

    The RunEngine goes on meanwhile: the wait can be paused, resumed and aborted, suspenders work, and a wait that is
    rewound begins where it was. All network traffic is in a background thread.

    Where a flow run crashed or failed and reconciliation has started the workflow again, the last flow run counts. A
    rerun that has not been started yet is not waited for.

    Parameters
    ----------
    uid : str or sequence of str, optional
        The run, or several; by default the run that stopped last in this process.
    workflow : str, optional
        The workflow's name, by default its deployment. It may be left out where runs have only one.
    timeout_s : float, optional
        How long to wait, in seconds. The time of a pause counts: flow runs go on meanwhile.

    Yields
    ------
    Msg
        ``checkpoint`` and ``wait_for``, by turns.

    Returns
    -------
    FlowResult or dict
        What came of it; of several runs, by their uids. A run that opted out of workflows (``prefect=False``), or
        that the workflow did not want, gives a result whose ``started`` is False.

    Raises
    ------
    FlowFailed
        As soon as a flow run has failed, crashed or been cancelled, or its submission is a dead letter.
    FlowTimeout
        If it has not ended in time; the flow run goes on.
    ConfigurationError
        If there is no such workflow, or a run has several and `workflow` does not say which.
    """
    uids = _uids(uid)
    watcher = FlowWatcher(uids, workflow, timeout_s, get_settings())
    watcher.start()
    try:
        while not watcher.outcome.done():
            if time.monotonic() >= watcher.deadline:
                raise watcher.timed_out()
            yield from bps.checkpoint()
            # What it answers is not used: after a pause, that goes to the rewound message.
            yield from bps.wait_for([lambda: _known_or_later(watcher)])
    finally:
        watcher.close()
    results = watcher.outcome.result()
    return results[uids[0]] if uid is None or isinstance(uid, str) else results


def _uids(uid: str | Sequence[str] | None) -> list[str]:
    if uid is None:
        last = stopped_runs.last()
        if last is None:
            raise ConfigurationError(
                "No run has stopped in this process yet, as far as a PrefectCallback of it knows: give the run's uid."
            )
        return [last.uid]
    return [uid] if isinstance(uid, str) else list(dict.fromkeys(uid))


def _known_or_later(watcher: FlowWatcher) -> "asyncio.Future[None]":
    """Return a future of the RunEngine's loop: done when the outcome is known, or it is time to look up.

    A new one each time, with no task behind it: a wait that is paused leaves nothing that nobody awaits.
    """
    loop = asyncio.get_running_loop()
    looked_up = loop.create_future()

    def look_up() -> None:
        if not looked_up.done():
            looked_up.set_result(None)

    def known(_: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(look_up)

    watcher.outcome.add_done_callback(known)
    loop.call_later(max(0.0, min(_CHECKPOINT_S, watcher.deadline - time.monotonic())), look_up)
    return looked_up
