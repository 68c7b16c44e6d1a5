"""Rendering of the outbox."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import counted, one_line
from bluesky_prefect.outbox import Entry, OutboxCounts

# Characters of a cell, and of a line of its own, that somebody else wrote.
_CELL = 200
_LINE = 2000


@dataclass(frozen=True)
class Listing:
    """The outbox as `list` shows it: its path, counts, the newest entries, and the address of Prefect."""

    path: Path
    exists: bool
    counts: OutboxCounts
    entries: Sequence[Entry]
    more: bool
    here: str | None = None


def listing(listed: Listing, now: float, options: str) -> None:
    """Show a list of entries for people; `options` is what their next command needs."""
    out = terminal.out()
    if not listed.exists:
        terminal.show(out, f"There is no outbox at {listed.path} yet: it is made when the first run stops.")
        return
    elsewhere = any(_is_elsewhere(one, listed.here) for one in listed.entries)
    if listed.entries:
        where = ["Prefect"] if elsewhere else []
        table = terminal.table(
            "Scan", "Plan", "Run", "Workflow", "State", "Failed", "Age", *where, "Reason or flow run"
        )
        # One line for each, in what width the other columns leave; 'show' has all of it.
        reason = table.columns[-1]
        reason.no_wrap, reason.overflow, reason.ratio, table.expand = True, "ellipsis", 1, True
        for one in listed.entries:
            *cells, last = _cells(one, now)
            address = [one_line(one.api_url or "", 60) if _is_elsewhere(one, listed.here) else ""] if elsewhere else []
            table.add_row(*cells, *address, last, style="red" if one.state == "dead" else None)
        out.print(table)
        out.print()
    counts = listed.counts
    declined = f", {counts.declined} declined" if counts.declined else ""
    terminal.show(out, f"{counts.waiting} waiting, {counts.sent} sent, {counts.dead} dead{declined} in {listed.path}")
    if listed.more:
        terminal.show(out, f"These are the newest {len(listed.entries)}; --limit lists more.")
    if listed.entries:
        terminal.show(out, f"For one in full, and what to do:  bluesky-prefect outbox show{options} NAME")
    if elsewhere:
        terminal.show(out, f"To send to this Prefect what is for another:  {_move(options, listed.here)}")


def listing_as_json(listed: Listing) -> None:
    """Show a list of entries for programs."""
    entries = [_facts(one) for one in listed.entries]
    terminal.dump(
        {"outbox": str(listed.path), "counts": asdict(listed.counts), "more": listed.more, "entries": entries}
    )


def entry(one: Entry, now: float, options: str, here: str | None = None) -> None:
    """Show all that is known of an entry for people, except for its documents."""
    plan = "" if one.plan_name is None else f" ({one.plan_name})"
    lines = {
        "Run": one.run_uid,
        "Scan": f"{'unknown' if one.scan_id is None else one.scan_id}{plan}",
        "Workflow": one.workflow,
        "Deployment": None if one.deployment == one.workflow else one.deployment,
        "Prefect": one.api_url if _is_elsewhere(one, here) else None,
        "State": _state(one, now),
        "Reason": one.reason,
        "Flow run": one.flow_run_name and f"{one.flow_run_name} ({one.flow_run_id})",
        "Failed tries": str(one.attempts),
        "Put in": _when(one.created, now),
        "Last changed": _when(one.changed, now),
        "Key": one.key,
    }
    out = terminal.out()
    for title, text in lines.items():
        if text is not None:
            terminal.show(out, f"{title:<14}{one_line(text, _LINE)}")
    terminal.show(out, f"\n{remedy(one, options)}")
    if one.state == "waiting" and _is_elsewhere(one, here):
        terminal.show(out, "Only a session whose Prefect is the one above sends it.")
        terminal.show(out, f"To send to another what is for that one:  {_move(options, here)}")


def entry_as_json(one: Entry, options: str) -> None:
    """Show all that is known of an entry for programs, documents too."""
    submission = asdict(one.submission) if one.is_readable else None
    terminal.dump({**_facts(one), "remedy": remedy(one, options), "submission": submission})


def remedy(one: Entry, options: str) -> str:
    """Return what a person can do about an entry, with the commands that do it."""
    uid, key = shlex.quote(one_line(one.run_uid)), shlex.quote(one_line(one.key))
    workflow = shlex.quote(one_line(one.workflow))
    submit, again, regardless = (
        f"bluesky-prefect submit{options}{more} --workflow {workflow} {uid}"
        for more in ("", " --again", " --regardless")
    )
    retry, discard = (f"bluesky-prefect outbox {what}{options} {key}" for what in ("retry", "discard"))
    if one.held_by:
        return f"Nothing has to be done: process {one.held_by} is sending it now."
    if one.is_message and one.state == "sent":
        return "Nothing has to be done: Prefect has it."
    if one.is_message and one.state == "dead":
        return f"Fix what the reason names, then:  {retry}\nIf nobody needs to be told:  {discard}"
    if one.state == "sent":
        return f"Nothing has to be done: Prefect has it.\nTo start it again:  {again}"
    if one.state == "declined":
        return f"Nothing has to be done: the workflow did not want the run.\nTo start it all the same:  {regardless}"
    if one.is_message and one.state == "waiting" and not one.is_readable:
        return (
            "This version cannot read it: a session of a newer one sends it. Upgrade this one.\n"
            f"If nobody needs to be told:  {discard}"
        )
    if one.state == "waiting" and not one.is_readable:
        return (
            "This version cannot read it: a session of a newer one sends it. Upgrade this one, or start the workflow "
            f"anew:  {submit}\nand then:  {discard}"
        )
    if one.state == "waiting" and not one.attempts:
        return "Nothing has to be done: a courier, or a session on this outbox, sends it."
    if one.state == "waiting":
        by_itself = "It is then sent automatically by a courier, or by a session on this outbox."
        return f"Fix what the reason names. {by_itself}\nTo try it at once:  {retry}"
    if one.is_sendable:
        steps = [
            f"Fix what the reason names at the deployment, then:  {retry}",
            f"If the workflow's parameters= are to blame, fix those, then:  {submit}",
        ]
    elif not one.is_readable:
        steps = [
            "This version cannot read it.",
            f"If a newer bluesky-prefect wrote it, upgrade this one, then:  {retry}",
            f"Else start the workflow anew:  {submit}",
        ]
    else:
        steps = [
            "It cannot be sent as it is: nobody knows whether the run was wanted, or with which parameters.",
            f"Fix the workflow's when= or parameters=, then:  {submit}",
        ]
    return "\n".join([*steps, f"If the run needs no flow run:  {discard}"])


def candidates(entries: Sequence[Entry]) -> str:
    """Return one line for each of several entries that a name may mean."""
    return "\n".join(f"  {_named(one)}, {one.state}, put in {_local(one.created)}" for one in entries)


def done(what: str, one: Entry) -> None:
    """Say what was done to an entry."""
    terminal.show(terminal.out(), f"{what}: {_named(one)}")


def not_retried(one: Entry, options: str) -> None:
    """Say why an entry is left as it is."""
    terminal.show(terminal.err(), f"Left as it is: {_named(one)}\n{remedy(one, options)}")


def to_be_discarded(entries: Sequence[Entry]) -> None:
    """Say what is about to be deleted."""
    terminal.show(terminal.err(), f"To be deleted:\n{candidates(entries)}")


def by_address(counts: Mapping[str | None, int]) -> str:
    """Return how many submissions are for which address."""
    parts = [f"{many} for {'any address' if url is None else one_line(url, 200)}" for url, many in counts.items()]
    return (
        f"the submissions left are {', '.join(parts)}" if parts else "nothing is waiting, and there are no dead letters"
    )


def to_be_moved(counts: Mapping[str, int], target: str) -> None:
    """Say what is about to be moved to another address."""
    lines = "\n".join(f"  {many} for {one_line(url, 200)}" for url, many in counts.items())
    terminal.show(terminal.err(), f"To be sent to {one_line(target, 200)} from now on:\n{lines}")


def moved(many: int, target: str) -> None:
    """Say how many submissions were moved to another address."""
    terminal.show(terminal.out(), f"Moved: {counted(many, 'submission')}, now for {one_line(target, 200)}")


def after_discarding(entries: Sequence[Entry]) -> None:
    """Say where discarded runs are found from now on; messages about runs are gone for good."""
    if all(one.is_message for one in entries):
        return
    terminal.show(
        terminal.err(),
        "As long as their workflow is on the list of workflows, 'bluesky-prefect reconcile' shows these runs as runs "
        "without a flow run; with --submit, and where it is scheduled, it starts them after all.",
    )


def _cells(one: Entry, now: float) -> list[str]:
    return [
        "" if one.scan_id is None else str(one.scan_id),
        one_line(one.plan_name or "", 40),
        one_line(one.run_uid[:8]),
        one_line(one.workflow, 60),
        _state(one, now),
        str(one.attempts),
        terminal.span(now - one.created),
        one_line(one.flow_run_name or one.reason or "", _CELL),
    ]


def _facts(one: Entry) -> dict[str, Any]:
    return {
        "key": one.key,
        "run_uid": one.run_uid,
        "scan_id": one.scan_id,
        "plan_name": one.plan_name,
        "workflow": one.workflow,
        "deployment": one.deployment,
        "state": one.state,
        "attempts": one.attempts,
        "reason": one.reason,
        "can_be_retried": one.is_sendable,
        "api_url": one.api_url,
        "next_try": None if one.due is None else terminal.iso(one.due),
        "held_by": one.held_by,
        "flow_run_id": one.flow_run_id,
        "flow_run_name": one.flow_run_name,
        "created": terminal.iso(one.created),
        "changed": terminal.iso(one.changed),
    }


def _is_elsewhere(one: Entry, here: str | None) -> bool:
    return one.api_url is not None and one.api_url != here


def _move(options: str, here: str | None) -> str:
    return f"bluesky-prefect outbox move{options} --to {shlex.quote(here) if here else 'URL'}"


def _named(one: Entry) -> str:
    return f"{one_line(one.key)} (scan {'unknown' if one.scan_id is None else one.scan_id})"


def _state(one: Entry, now: float) -> str:
    if one.held_by:
        return f"being sent by process {one_line(one.held_by, 80)}"
    return one.state if one.due is None else f"waiting, next try in {terminal.span(one.due - now)}"


def _when(time_s: float, now: float) -> str:
    return f"{_local(time_s)} ({terminal.span(now - time_s)} ago)"


def _local(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s).astimezone():%Y-%m-%d %H:%M:%S}"
