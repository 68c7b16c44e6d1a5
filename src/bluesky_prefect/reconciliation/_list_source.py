"""The source of the list of workflows that reconciliation compares with: a setting, an option, or its deployment."""

from bluesky_prefect.core import ConfigurationError, load_workflows
from bluesky_prefect.prefect_api import PrefectApi, first_listed, prefect_errors

# As flows name it (bluesky_prefect.reconciliation._flow, which imports Prefect).
_FLOW = "reconcile"
LIST_PARAMETER = "workflows"
"""The parameter of the deployment that says where the list is."""


def require_list_source(where: str | None, hint: str = "") -> str:
    """Return where the list is, if that is known; else raise an error with a hint where people may look it up.

    Raises
    ------
    ConfigurationError
        If it is not known. Any other list starts every workflow on runs that have had theirs.
    """
    if where:
        return where
    raise ConfigurationError(
        "The list of workflows is not known here, so nothing was started. Name the list that your "
        "sessions subscribe, as module:attribute: with --workflows, or in BLUESKY_PREFECT_WORKFLOWS "
        "(bluesky_prefect.core:DEFAULT_WORKFLOWS is just my-workflow/local; a beamline with a name has another one)."
        f"{hint}"
    )


def lists_in_prefect(api: PrefectApi) -> str:
    """Return what Prefect's deployments of ``reconcile`` compare with, in words.

    It is a hint for a person only: on a server of several beamlines the only such deployment may be a neighbour's.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with prefect_errors():
        found = api.client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[_FLOW])))
    lists = {f"{_FLOW}/{one.name}": (one.parameters or {}).get(LIST_PARAMETER) for one in found}
    said = ", ".join(f"{name} compares with {where or 'what its worker says'}" for name, where in sorted(lists.items()))
    return f" In Prefect, {said}." if said else ""


def note_list(where: str, timeout_s: float) -> None:
    """Let Prefect know that the workflows of the list at `where` are on it from now on.

    Parameters
    ----------
    timeout_s : float
        How long one request may take, in seconds.

    Raises
    ------
    ConfigurationError
        If there is no such list.
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    with PrefectApi(timeout_s, client_retries=True) as api:
        for workflow in load_workflows(where):
            first_listed(api, workflow.names, api.now(), note=True)
