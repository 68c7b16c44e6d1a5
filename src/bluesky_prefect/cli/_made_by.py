"""Runs whose results an older version made."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import counted

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

    from bluesky_prefect.core import Run, Workflow
    from bluesky_prefect.tiled_api import Catalog


def runs_made_by(
    catalog: "Catalog", text: str, workflows: "Iterable[Workflow]", among: "Sequence[Run] | None"
) -> "list[tuple[list[Run], list[Workflow]]]":
    """Return the runs whose results these versions made, by workflow, and say how many they are.

    All that Tiled has are looked through, or those `among` some. Raises `FlowInputError` if `text` means no versions.
    """
    from bluesky_prefect.tiled_api import parse_versions, results_made_by, versions_of_results

    meant, known = parse_versions(text), versions_of_results(catalog)
    versions = [version for version in known if _is_one_of(version, meant)]
    uids = None if among is None else {run.uid for run in among}
    wanted: list[tuple[list[Run], list[Workflow]]] = []
    for workflow in workflows if versions else ():
        found = results_made_by(catalog, versions, _deployments(workflow))
        runs = [run for run in found.runs if uids is None or run.uid in uids]
        if runs:
            terminal.note(f"{workflow.name}: {counted(len(runs), 'run')}, results made by {_listed(found.versions)}")
            wanted.append((runs, [workflow]))
    if not wanted:
        whose = "" if among is None else "of these runs "
        terminal.note(f"Tiled has no results {whose}that {text} made. Results by version: {_listed(known)}.")
    return wanted


def _deployments(workflow: "Workflow") -> list[str]:
    """Return the deployment of a workflow, and its former names that may be deployments."""
    return [workflow.deployment, *(name for name in workflow.was if name.count("/") == 1)]


def _is_one_of(version: str, meant: "SpecifierSet") -> bool:
    """Tell whether a version is meant; before 0.2 are its pre-releases too, which packages do not get by ``<0.2``."""
    from packaging.version import InvalidVersion, Version

    try:
        one = Version(version)
    except InvalidVersion:
        return False
    return all(
        one < Version(each.version) if each.operator == "<" else each.contains(one, prereleases=True) for each in meant
    )


def _listed(versions: dict[str, int]) -> str:
    return ", ".join(f"{version} ({many})" for version, many in sorted(versions.items())) or "none"
