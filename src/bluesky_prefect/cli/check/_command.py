"""The command that looks at everything that runs need on their way."""

import dataclasses
import os
from collections import Counter
from typing import TYPE_CHECKING

import typer

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._options import AsJson, StateDirectory, Workflows, settings_from
from bluesky_prefect.core import counted

if TYPE_CHECKING:
    from bluesky_prefect.cli.check._finding import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def check(as_json: AsJson = False, workflows: Workflows = None, state_directory: StateDirectory = None) -> None:
    """Check everything that a run depends on, and say how to fix what is wrong.

    Servers, keys, versions, clocks, disks, the list of workflows and its deployments, workers, the outbox and the
    journals. Nothing is changed by it, and no secret is shown. Ends with 0 if nothing is a problem, with 1 otherwise.
    """
    given = settings_from(state_directory=state_directory, workflows=workflows)
    os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(given.state_directory)
    if workflows:
        os.environ["BLUESKY_PREFECT_WORKFLOWS"] = workflows
    from bluesky_prefect.cli.check._look import look
    from bluesky_prefect.cli.check._places import find_places

    with terminal.progress("Looking at everything") as report:
        # Prefect and Tiled read the environment when they are imported.
        findings = look(find_places(), report)
    counts = Counter(one.state for one in findings)
    if as_json:
        terminal.dump({"ok": not counts["problem"], "findings": [dataclasses.asdict(one) for one in findings]})
    else:
        _show(findings, counts)
    raise typer.Exit(1 if counts["problem"] else 0)


def _show(findings: "list[Finding]", counts: "Counter[str]") -> None:
    out = terminal.out()
    subjects = dict.fromkeys(one.subject for one in findings)
    for subject in subjects:
        out.print(f"\n{subject.capitalize()}", style="bold")
        for one in findings:
            if one.subject == subject:
                remedy = f" -> {one.remedy}" if one.remedy else ""
                out.print(f"  {one.state:<8}", style=_STYLES[one.state], end="")
                terminal.show(out, f"{one.found}{remedy}")
    if counts["problem"] or counts["warning"]:
        terminal.show(out, f"\n{counted(counts['problem'], 'problem')}, {counted(counts['warning'], 'warning')}.")
    else:
        terminal.show(out, "\nNothing is wrong.")
