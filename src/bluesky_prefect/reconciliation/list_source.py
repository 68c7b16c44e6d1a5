"""Where the list of workflows is that reconciliation compares with: named where it runs, or kept in Prefect."""

from collections.abc import Mapping

from bluesky_prefect.exceptions import ConfigurationError
from bluesky_prefect.prefect_api import PrefectApi, explained

# As flows name it (bluesky_prefect.reconciliation.flow, which imports Prefect).
_FLOW = "reconcile"
PARAMETER = "workflows"
"""The parameter of the deployment in which Prefect keeps where the list is."""

HOW_TO_NAME = (
    "name the list of workflows that your sessions subscribe, as module:attribute: set BLUESKY_PREFECT_WORKFLOWS, or "
    "give --workflows (bluesky_prefect.workflow_list:DEFAULT_WORKFLOWS is just my-workflow/local)"
)


def required(where: str | None) -> str:
    """Return where the list is, if that is known.

    Raises
    ------
    ConfigurationError
        If it is not. Comparing with any other list would start every workflow on runs that have had theirs.
    """
    if where:
        return where
    raise ConfigurationError(f"Which workflows a run should have had is not known here: {HOW_TO_NAME}.")


def kept_in_prefect(api: PrefectApi) -> dict[str, str | None]:
    """Return where the list is by each deployment of ``reconcile``; None for one that does not say.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with explained():
        found = api.client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[_FLOW])))
    return {f"{_FLOW}/{one.name}": (one.parameters or {}).get(PARAMETER) for one in found}


def the_only_one(kept: Mapping[str, str | None]) -> str:
    """Return where the list is, if all deployments of ``reconcile`` say the same.

    Raises
    ------
    ConfigurationError
        If there is none, or they differ, or one does not say.
    """
    places = set(kept.values())
    if len(places) == 1 and (place := places.pop()):
        return place
    found = ", ".join(f"{name} says {place or 'nothing'}" for name, place in sorted(kept.items()))
    raise ConfigurationError(
        "Which workflows a run should have had is not known here, and Prefect does not tell "
        f"({found or 'it has no deployment of reconcile'}). Nothing was started. Please {HOW_TO_NAME}. To keep it in "
        "Prefect: bluesky-prefect deploy --work-pool ... --reconcile-every 300 --workflows ..."
    )
