"""The commands about the outbox: what waits to be sent, what is dead, and what to do about it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bluesky_prefect.cli import _render_outbox as render
from bluesky_prefect.cli._options import AsJson, StateDirectory, settings_from, state_option
from bluesky_prefect.core import ConfigurationError, Settings, StackError, api_address, comparable_url, one_line
from bluesky_prefect.outbox import SHORTEST_UID, Entry, Outbox, OutboxCounts, State, existing_outbox

app = typer.Typer(
    help="Show and repair submissions that are waiting in the outbox, or cannot be sent.\n\n"
    "Each run that stops is put in the outbox, once for each of its workflows, and sent to Prefect from there. "
    "Waiting submissions are sent automatically by the courier or an open session. What Prefect refuses to start, or "
    "whose workflow failed to say what to start, is a dead letter: it stays until you have fixed the cause and retry "
    "it, or discard it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_NAMES_HELP = (
    f"A run's scan id, its uid or the first {SHORTEST_UID} or more characters of it; or a submission's key. "
    "What names several is refused, with a list of their keys."
)
Name = Annotated[str, typer.Argument(help=_NAMES_HELP, metavar="NAME")]
# Dead letters that are in memory at a time.
_PAGE = 500


class Shown(StrEnum):
    """The entries to list."""

    WAITING = "waiting"
    DEAD = "dead"
    SENT = "sent"
    DECLINED = "declined"
    ALL = "all"


@app.command("list")
def list_entries(
    state: Annotated[
        Shown | None, typer.Option(help="Which ones. Default: those that are waiting and dead letters.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most; the newest are listed.")] = 50,
    as_json: AsJson = False,
    state_directory: StateDirectory = None,
) -> None:
    """List what is waiting and what cannot be sent, newest first, with the reason.

    Ends with 0, also if there is nothing to list.
    """
    settings = settings_from(state_directory=state_directory)
    path = settings.outbox_path
    with existing_outbox(path) as outbox:
        if outbox is None:
            listed = render.Listing(path, exists=False, counts=OutboxCounts(), entries=[], more=False)
        else:
            entries = _newest(outbox, state, limit + 1)
            listed = render.Listing(
                outbox.path or path,
                exists=True,
                counts=outbox.counts(),
                entries=entries[:limit],
                more=len(entries) > limit,
                here=_here(settings, entries),
            )
    if as_json:
        render.listing_as_json(listed)
    else:
        render.listing(listed, time.time(), state_option(state_directory))


@app.command()
def show(name: Name, as_json: AsJson = False, state_directory: StateDirectory = None) -> None:
    """Show everything known about one submission, and what to do about it.

    The run's start and stop documents are in what --json prints.
    """
    with _opened(state_directory) as outbox:
        entry = _only(outbox.named(name), name, outbox)
    options = state_option(state_directory)
    if as_json:
        render.entry_as_json(entry, options)
    else:
        here = _here(settings_from(state_directory=state_directory), [entry])
        render.entry(entry, time.time(), options, here)


@app.command()
def retry(
    names: Annotated[list[str] | None, typer.Argument(help=_NAMES_HELP, metavar="NAME...", show_default=False)] = None,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="Retry every dead letter that can be sent.")] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Send again, now, what cannot be sent or is waiting for its next attempt.

    The courier or an open session sends it within seconds; otherwise the next one does. A dead letter whose workflow
    failed to say whether or with which parameters to start is not sent: fix the workflow, then use 'submit'. Ends with
    1 if one of those is left.
    """
    if bool(names) == all_dead:
        raise typer.BadParameter("give the NAMEs of submissions, or --all-dead")
    options = state_option(state_directory)
    with _opened(state_directory) as outbox:
        chosen = _dead(outbox) if all_dead else _unsent(outbox, names or ())
        left = 0
        for entry in chosen:
            if entry.is_sendable and outbox.retry(entry.key):
                render.done("Due now", entry)
            else:
                left += 1
                render.not_retried(entry, options)
    raise typer.Exit(1 if left else 0)


@app.command()
def discard(
    names: Annotated[list[str], typer.Argument(help=_NAMES_HELP, metavar="NAME...")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Delete submissions permanently, so that they are not sent.

    The runs themselves stay in Tiled. If their workflow is on the list of workflows, 'bluesky-prefect reconcile' finds
    them as runs without a flow run, and 'reconcile --submit' starts them after all. To keep a run from ever starting
    a workflow, have that workflow's when= refuse it.
    """
    with _opened(state_directory) as outbox:
        entries = _unsent(outbox, names)
        if not yes:
            render.to_be_discarded(entries)
            typer.confirm("Delete permanently?", abort=True, err=True)
        for entry in entries:
            if not outbox.discard(entry.key):
                raise ConfigurationError(
                    f"{one_line(entry.key)} is not discarded: it is being sent at this moment, or is gone. "
                    "Look again with 'bluesky-prefect outbox list --state all'."
                )
            render.done("Discarded", entry)
    render.after_discarding(entries)


@app.command()
def move(
    to: Annotated[str, typer.Option("--to", help="Address of the Prefect API to send to: http://host:4200/api.")],
    source: Annotated[
        str | None,
        typer.Option("--from", help="Only what is for this address. Default: for any other.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Send what is waiting or cannot be sent to another Prefect server than the one it was meant for.

    Each submission is for the server that the session was set to that took the run; 'outbox list' shows the address
    where it is another one than this shell's. What that server has accepted, and could not say so, is started a second
    time on the other one.
    """
    target, origin = _address(to, "--to"), None if source is None else _address(source, "--from")
    with _opened(state_directory) as outbox:
        found = {url: many for url, many in outbox.unsent_by_address().items() if url not in (None, target)}
        chosen = {url: many for url, many in found.items() if origin in (None, url)}
        if not chosen:
            raise ConfigurationError(f"There is nothing to move: {render.by_address(outbox.unsent_by_address())}.")
        if not yes:
            render.to_be_moved(chosen, target)
            typer.confirm("Move?", abort=True, err=True)
        render.moved(outbox.move(target, source=origin), target)


def _address(url: str, option: str) -> str:
    if (address := comparable_url(url)) is None:
        raise ConfigurationError(f"{option}: this is not the address of a Prefect API. Write http://host:4200/api.")
    return address


def _here(settings: Settings, entries: Sequence[Entry]) -> str | None:
    """Return where this shell's Prefect is, or the running local stack's; asked only if an entry has an address."""
    if not any(entry.api_url for entry in entries):
        return None
    if address := api_address():
        return address
    from bluesky_prefect.stack import LocalStack

    try:
        info = LocalStack(settings).find()
    except (StackError, OSError):
        return None
    return comparable_url(info.prefect_api_url) if info else None


@contextmanager
def _opened(state_directory: Path | None) -> Iterator[Outbox]:
    path = settings_from(state_directory=state_directory).outbox_path
    with existing_outbox(path) as outbox:
        if outbox is None:
            raise ConfigurationError(f"There is no outbox at {path} yet: it is made when the first run stops.")
        yield outbox


def _newest(outbox: Outbox, state: Shown | None, limit: int) -> list[Entry]:
    if state is Shown.ALL:
        return outbox.entries(limit=limit)
    states: Sequence[State] = ("waiting", "dead") if state is None else (state.value,)
    found = [entry for one in states for entry in outbox.entries(state=one, limit=limit)]
    return sorted(found, key=lambda entry: entry.seq, reverse=True)[:limit]


def _dead(outbox: Outbox) -> Iterator[Entry]:
    before = None
    while page := outbox.entries(state="dead", before=before, limit=_PAGE):
        yield from page
        before = page[-1].seq


def _only(found: list[Entry], name: str, outbox: Outbox) -> Entry:
    called = repr(one_line(name, 100))
    if not found:
        raise ConfigurationError(
            f"The outbox {outbox.path} has no submission of {called}. Give a run's scan id, its uid or the first "
            f"{SHORTEST_UID} or more characters of it: 'bluesky-prefect outbox list --state all' shows them."
        )
    if len(found) > 1:
        several = render.candidates(found)
        raise ConfigurationError(f"{called} names several submissions. Give the key of one:\n{several}")
    return found[0]


def _unsent(outbox: Outbox, names: Sequence[str]) -> list[Entry]:
    """Return what the names mean, each once; all are looked up before anything is done to one."""
    chosen: dict[str, Entry] = {}
    for name in names:
        unsent = outbox.named(name, unsent=True)
        present = [] if unsent else outbox.named(name)
        if any(one.state == "declined" for one in present):
            raise ConfigurationError(
                f"The workflow's when= refused the run {one_line(name, 100)!r}.\n{render.candidates(present)}\n"
                "To start it all the same: bluesky-prefect submit --workflow NAME --regardless UID"
            )
        if present:
            again = "\nTo start it again: bluesky-prefect submit --workflow NAME --again UID"
            raise ConfigurationError(
                f"{one_line(name, 100)!r} has been sent: Prefect has it.\n{render.candidates(present)}"
                + ("" if all(one.is_message for one in present) else again)
            )
        entry = _only(unsent, name, outbox)
        chosen[entry.key] = entry
    return list(chosen.values())
