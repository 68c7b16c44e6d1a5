"""Prefect: the server, the list of workflows with their deployments, and the workers that take their flow runs."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from bluesky_prefect.cli.check._finding import Findings
from bluesky_prefect.cli.check._places import Places
from bluesky_prefect.cli.check._servers import TIMEOUT_S, answers, versions
from bluesky_prefect.core import (
    PREFECT_KEY,
    BlueskyPrefectError,
    Settings,
    WorkflowList,
    counted,
    default_workflows,
    load_workflows,
    prefect_authorization,
    user_in_url,
)
from bluesky_prefect.prefect_api import (
    KnownDeployment,
    KnownPool,
    PrefectApi,
    known_deployments,
    known_pools,
    server_version,
    unusable_blocks,
)
from bluesky_prefect.stack import prefect_service


def look_at_prefect(places: Places) -> Findings:
    """Ask Prefect's server: does it answer, take the credentials, and have what the workflows need."""
    findings = Findings("prefect")
    if not answers(findings, "Prefect", places.prefect):
        return findings
    with PrefectApi(TIMEOUT_S) as api:
        try:
            server = server_version(api)
        except BlueskyPrefectError as error:
            findings.problem("credentials", str(error))
            return findings
        _note_credentials(findings, places.prefect.url)
        versions(findings, "prefect", server)
        workflows = _listed(places.settings)
        if workflows is not None:
            deployments = known_deployments(api)
            findings += _deployments(workflows, deployments)
            findings += _notifications(workflows, unusable_blocks(api, _blocks(workflows)))
            pools = {deployments[one.deployment].work_pool for one in workflows if one.deployment in deployments}
            of_stack = places.settings.work_pool if places.is_stack else None
            findings += _workers(known_pools(api, sorted(pool for pool in pools if pool)), of_stack)
    return findings


def look_at_list(places: Places) -> Findings:
    """Import the list of workflows."""
    findings, where = Findings("workflows"), places.settings.workflows
    if not where:
        names = ", ".join(one.name for one in default_workflows(places.settings.beamline))
        findings.ok("list", f"none is named: sessions start {names}, or what they name themselves")
        return findings
    try:
        listed = load_workflows(where)
    except BlueskyPrefectError as error:
        findings.problem("list", str(error))
    else:
        findings.ok("list", f"{where}: {', '.join(one.name for one in listed)}")
    return findings


def _listed(settings: Settings) -> WorkflowList | None:
    """Return the workflows that sessions start by default; None if the list cannot be had, which is told elsewhere."""
    try:
        return load_workflows(settings.workflows) if settings.workflows else default_workflows(settings.beamline)
    except BlueskyPrefectError:
        return None


def _note_credentials(findings: Findings, url: str) -> None:
    given = bool(prefect_authorization() or user_in_url(url))
    if note := prefect_service().note:
        findings.warning("credentials", note, "")
    elif given:
        findings.ok("credentials", f"the server lets this user in ({PREFECT_KEY})")
    else:
        findings.ok("credentials", "no credentials are set, and the server asks for none")


def _deployments(workflows: WorkflowList, known: Mapping[str, KnownDeployment]) -> Findings:
    findings = Findings("workflows")
    for name in dict.fromkeys(one.deployment for one in workflows):
        deployment = known.get(name)
        if deployment is None:
            near = get_close_matches(name, known, n=3)
            hint = f"there is {', '.join(near)}; " if near else ""
            remedy = f"{hint}deploy it, or change its name on the list; the runs that want it wait"
            findings.problem("deployment", f"Prefect has no deployment {name!r}", remedy)
        elif deployment.work_pool is None:
            findings.ok("deployment", f"{name}, served by a process, on no work pool")
        else:
            findings.ok("deployment", f"{name}, on work pool {deployment.work_pool}")
    return findings


def _blocks(workflows: WorkflowList) -> dict[str, list[str]]:
    """Return the notification blocks on the list, each with the names of the workflows that send through it."""
    found: dict[str, list[str]] = {}
    for one in workflows:
        for block in one.notify:
            found.setdefault(block, []).append(one.name)
    return found


def _notifications(workflows: WorkflowList, unusable: Mapping[str, str]) -> Findings:
    findings = Findings("workflows")
    for block, names in _blocks(workflows).items():
        if problem := unusable.get(block):
            findings.problem("notification", f"no message of {', '.join(names)} is sent: {problem}")
        else:
            findings.ok("notification", f"{block}, for {', '.join(names)}")
    return findings


def _workers(pools: Mapping[str, KnownPool | None], of_stack: str | None) -> Findings:
    findings = Findings("workers")
    for name, pool in pools.items():
        is_of_stack = name == of_stack
        start = "bluesky-prefect up" if is_of_stack else f"prefect worker start --pool {name}"
        if pool is None:
            create = "bluesky-prefect up" if is_of_stack else f"prefect work-pool create --type warm-process {name}"
            findings.problem("pool", f"Prefect has no work pool {name!r}", create)
        elif pool.paused:
            found = f"work pool {name} ({pool.type}) is paused: no worker is given its flow runs"
            findings.problem("pool", found, f"prefect work-pool resume {name}")
        elif pool.online:
            alive = f"{counted(len(pool.online), 'worker')} online: {_some(pool.online)}"
            findings.ok("pool", f"work pool {name} ({pool.type}), {alive}")
        else:
            silent = f"; {counted(len(pool.silent), 'worker')} gave no sign of life lately" if pool.silent else ""
            findings.problem("pool", f"work pool {name} ({pool.type}) has no worker online{silent}", start)
    return findings


def _some(names: Iterable[str], most: int = 3) -> str:
    first, *rest = [list(names)[:most], *list(names)[most:]]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "")
