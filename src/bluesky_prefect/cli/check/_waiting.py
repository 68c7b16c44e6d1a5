"""All that waits on this machine: submissions in the outbox, runs on their way to Tiled, and who takes them there."""

from collections import Counter

from bluesky_prefect.cli.check._finding import Findings
from bluesky_prefect.cli.check._places import Places
from bluesky_prefect.core import OutboxError, api_address, comparable_url, counted, prefect_url, without_secrets
from bluesky_prefect.courier import RunningCourier, running_courier
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import EntryLookup, unchanged_outbox
from bluesky_prefect.tiled_api import server_name

_START = "start it: bluesky-prefect courier (sessions and the local stack start one by themselves)"


def look_at_outbox(places: Places) -> Findings:
    """Look into the outbox, which stays as it is."""
    findings, path = Findings("outbox"), places.settings.outbox_path
    try:
        with unchanged_outbox(path) as outbox:
            if outbox is None:
                findings.ok("waiting", f"{path} is not there yet: nothing was ever put in")
            else:
                _look_into(findings, outbox)
    except OutboxError as error:
        findings.problem("waiting", str(error), "look at its disk; 'bluesky-prefect reconcile' finds runs that it lost")
    return findings


def _look_into(findings: Findings, outbox: EntryLookup) -> None:
    counts = outbox.counts()
    held = Counter(one.held_by for one in outbox.entries(state="waiting", limit=200) if one.held_by)
    who = f"; {', '.join(f'{many} held by {holder}' for holder, many in held.items())}" if held else ""
    findings.ok("waiting", f"{counts.waiting} waiting, {counts.sent} sent{who}")
    ours = comparable_url(prefect_url()) or api_address()
    for address, many in outbox.waiting_by_address().items():
        if address not in (None, ours):
            found = f"{counted(many, 'submission')} waiting for {address}, which is not this session's Prefect"
            findings.warning("address", found, "where that is past: bluesky-prefect outbox move")
    if counts.dead:
        found = f"{counted(counts.dead, 'submission')} cannot be sent"
        findings.problem("dead", found, "bluesky-prefect outbox list says why; then 'outbox retry' or 'outbox discard'")


def look_at_journals(places: Places) -> Findings:
    """Look at the runs that are on their way to Tiled, and at the courier."""
    findings, settings = Findings("journals"), places.settings
    directory, at_work = JournalDirectory(settings.journals_path), running_courier(settings)
    waiting, refused = len(directory.waiting()), directory.refused()
    found = f"{counted(waiting, 'run')} on the way to Tiled"
    if waiting and at_work is None:
        findings.problem("waiting", f"{found}, and no courier is at work", _START)
    else:
        findings.ok("waiting", found)
    if refused:
        what = f"Tiled refuses {counted(len(refused), 'run')}; the newest: {refused[0].reason}"
        findings.problem("refused", what, "fix the cause, then: bluesky-prefect journal retry")
    _note_courier(findings, places, at_work)
    return findings


def _note_courier(findings: Findings, places: Places, at_work: RunningCourier | None) -> None:
    if at_work is None:
        findings.ok("courier", "none is at work; the next session, or the local stack, starts one")
        return
    tiled = at_work.tiled or "the local stack's Tiled"
    found = f"{at_work.process} takes runs to {tiled}, and submissions to {at_work.prefect or 'Prefect'}"
    here = server_name(places.settings), comparable_url(places.prefect.url)
    others = [
        without_secrets(there)
        for there, ours in ((at_work.tiled, here[0]), (at_work.prefect, here[1]))
        if there and ours and comparable_url(there) != comparable_url(ours)
    ]
    if others:
        remedy = "stop it, so that one with this session's settings is started; or set the settings to its servers"
        findings.warning("courier", f"{found}: not what this session is set to", remedy)
    else:
        findings.ok("courier", found)
