"""Flow runs of a workflow under any name that it has or had.

Each function raises `PrefectUnavailable` if Prefect cannot be asked.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from bluesky_prefect.core import Run, Workflow, key_parts
from bluesky_prefect.prefect_api import PastFlowRun, PrefectApi, Wanted, made_after, past_flow_runs, prefect_errors

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

Pair = tuple[Run, Workflow]

# So many runs are asked for at once; Prefect's own limit for one answer is twice that.
_RUNS = 100
_PAGE = 200


def flow_runs_as_begun(api: PrefectApi, pairs: Sequence[Pair], since_s: float) -> list[tuple[PastFlowRun, ...]]:
    """Return the flow runs of each run and workflow: those begun under the name of the last, in their order."""
    former = {workflow.name: tuple(workflow.was) for _, workflow in pairs}
    found = past_flow_runs(api, [(run.uid, workflow.name) for run, workflow in pairs], since_s, former=former)

    def made_last(flow_runs: Sequence[PastFlowRun]) -> tuple[bool, float]:
        return bool(flow_runs), flow_runs[-1].created if flow_runs else 0.0

    return [max((found[run.uid, name] for name in workflow.names), key=made_last) for run, workflow in pairs]


def as_begun(workflow: Workflow, flow_runs: Sequence[PastFlowRun]) -> Workflow:
    """Return the workflow under the name that its flow runs were begun under, and go on."""
    return workflow.under(flow_runs[-1].workflow) if flow_runs else workflow


def begun_otherwise(
    api: PrefectApi, pairs: Iterable[Pair], known: Iterable[str], since_s: float
) -> dict[Wanted, tuple[str, str]]:
    """Return which runs have a flow run of the same flow under a name that nobody knows.

    That is what is left of a workflow that was renamed, and what another beamline's list does on the same catalog.

    Parameters
    ----------
    pairs : iterable of (Run, Workflow)
        Runs, and the workflows they have no flow run of.
    known : iterable of str
        All names of the list.
    since_s : float
        When the first of these runs stopped, in seconds since the epoch.

    Returns
    -------
    dict
        By the run's uid and the workflow's present name: the unknown name, and the name of the flow run.
    """
    names, by_flow = set(known), defaultdict[str, list[Pair]](list)
    for run, workflow in pairs:
        by_flow[workflow.deployment.partition("/")[0]].append((run, workflow))
    found: dict[Wanted, tuple[str, str]] = {}
    for flow, of_flow in by_flow.items():
        strangers: dict[str, tuple[str, str]] = {}
        for flow_run in _flow_runs(api, flow, list(dict.fromkeys(run.uid for run, _ in of_flow)), since_s):
            uid, name, _ = key_parts(flow_run.idempotency_key or "") or ("", "", 0)
            if name and name not in names:
                strangers[uid] = (name, flow_run.name)
        found |= {(run.uid, one.name): strangers[run.uid] for run, one in of_flow if run.uid in strangers}
    return found


def _flow_runs(api: PrefectApi, flow: str, uids: list[str], since_s: float) -> "Iterator[FlowRun]":
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter

    of_flow = FlowFilter(name=FlowFilterName(any_=[flow]))
    for begin in range(0, len(uids), _RUNS):
        tags = [f"uid:{uid}" for uid in uids[begin : begin + _RUNS]]
        asked = {"tags": {"any_": tags}, "expected_start_time": {"after_": made_after(since_s)}}
        page, offset = [None] * _PAGE, 0
        while len(page) == _PAGE:
            with prefect_errors():
                page = api.client.read_flow_runs(
                    flow_filter=of_flow, flow_run_filter=FlowRunFilter.model_validate(asked), limit=_PAGE, offset=offset
                )
            yield from page
            offset += _PAGE
