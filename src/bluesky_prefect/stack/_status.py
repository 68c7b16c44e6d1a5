"""Status of the local stack."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from bluesky_prefect.core import BlueskyPrefectError, Settings, StackError, key_parts, shared_with, write_problem
from bluesky_prefect.courier import running_courier
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.outbox import OutboxCounts, existing_outbox
from bluesky_prefect.prefect_api import FAILED_STATES, flow_run_url, is_of_run, probable_ui_url
from bluesky_prefect.stack._http import answers
from bluesky_prefect.stack._info import StackPaths, StackState, ports_of, stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._own_servers import OwnServer, ask_own_prefect, own_servers
from bluesky_prefect.stack._process import ManagedProcess

# So many flow runs that came of no run may stand between those that are shown.
_NOT_OF_RUNS = 20
# Prefect's own limit for one answer (PREFECT_SERVER_API_DEFAULT_LIMIT).
_PAGE = 200


@dataclass(frozen=True)
class PartStatus:
    """One service of the stack."""

    name: str
    title: str
    up: bool
    pid: int | None
    url: str | None
    detail: str
    named_by: str = ""
    """The setting that names the server, if it is not the local stack's."""


@dataclass(frozen=True)
class FlowRunStatus:
    """One flow run, as Prefect tells of it."""

    name: str
    state: str
    created: str
    run_s: float
    url: str
    workflow: str = ""
    """The workflow that it was made for; empty if it was made by hand."""


@dataclass(frozen=True)
class StackStatus:
    """All parts, the outbox, and the last flow runs.

    Attributes
    ----------
    prefect_database : str
        What the local stack's Prefect server keeps its flow runs in, in words; empty for a server of one's own.
    outbox, outbox_problem : OutboxCounts or None, str or None
        What waits, was sent, or is dead; or why the outbox cannot be read.
    disk_problem : str
        Why nothing can be written to the state directory; empty if it can.
    flow_runs, flow_runs_problem : tuple of FlowRunStatus, str or None
        The last ones, newest first; or why Prefect does not tell.
    shared : str
        Which group shares the state directory, and whose it is, in words; empty if none does.
    readable : tuple of str
        Directories whose files the local stack's Tiled server may read, besides its own; those of its next start if it
        is down.
    journals_waiting, journals_refused : int
        Runs that are on their way to Tiled, and those that it does not take.
    """

    parts: tuple[PartStatus, ...]
    prefect_database: str
    outbox: OutboxCounts | None
    outbox_problem: str | None
    flow_runs: tuple[FlowRunStatus, ...]
    flow_runs_problem: str | None
    shared: str = ""
    readable: tuple[str, ...] = ()
    journals_waiting: int = 0
    journals_refused: int = 0
    disk_problem: str = ""

    @property
    def all_up(self) -> bool:
        """True if every service works."""
        return all(part.up for part in self.parts)


def read_status(
    settings: Settings,
    paths: StackPaths,
    known: dict[str, ManagedProcess],
    titles: dict[str, str],
    *,
    database: str,
    flow_runs: int,
) -> StackStatus:
    """Ask every part how it is; one that does not answer is told of, never an error."""
    info = stack_info(settings, ports_of(known), StackKeys.load(paths) or StackKeys.none())
    urls = {"tiled": info.tiled_uri, "prefect": info.prefect_ui_url}
    checks = {"tiled": f"{info.tiled_uri}/healthz", "prefect": f"{info.prefect_api_url}/health"}
    state = StackState.load(paths.state)
    own = own_servers(settings, state)
    if own:
        parts = _own_parts(own, titles, settings)
    else:
        parts = tuple(
            _part(name, title, known.get(name), state, url=urls.get(name), check=checks.get(name))
            for name, title in titles.items()
        )
    if courier := running_courier(settings):
        pid = int(courier.process.rpartition(":")[2] or 0)
        mine = PartStatus("courier", titles["courier"], up=True, pid=pid, url=None, detail="")
        parts = tuple(mine if part.name == "courier" else part for part in parts)
    outbox, outbox_problem = _outbox(settings)
    journals = JournalDirectory(settings.journals_path)
    [prefect] = (part for part in parts if part.name == "prefect")
    ask, ui_url = (ask_own_prefect, probable_ui_url()) if own else (info.ask_prefect, info.prefect_ui_url)
    silent = f"Prefect {'does not answer' if own else 'is not running'}"
    runs, runs_problem = _flow_runs(ask, ui_url, flow_runs) if prefect.up else ((), silent)
    return StackStatus(
        parts,
        "" if own else database,
        outbox,
        outbox_problem,
        runs,
        runs_problem,
        shared_with(paths.root),
        () if own else tuple(map(str, info.readable)),
        journals_waiting=len(journals.waiting()),
        journals_refused=len(journals.refused()),
        disk_problem=_disk_problem(settings),
    )


def _disk_problem(settings: Settings) -> str:
    try:
        return write_problem(settings.state_directory)
    except OSError as error:
        return f"{settings.state_directory} cannot be looked at: {error.strerror}"


def _own_parts(own: dict[str, OwnServer], titles: dict[str, str], settings: Settings) -> tuple[PartStatus, ...]:
    def part(name: str) -> PartStatus:
        service, setting = own[name].service, own[name].setting
        problem = f"{service.problem}: check {setting}" if service.url else f"not named: set {setting}"
        detail = problem if service.problem else ""
        url, named_by = service.url or None, setting if service.url else ""
        return PartStatus(name, titles[name], up=not detail, pid=None, url=url, detail=detail, named_by=named_by)

    # Without runs on their way nobody misses it: the next session starts one.
    waits = bool(JournalDirectory(settings.journals_path).waiting())
    detail = "not at work, a session starts one"
    courier = PartStatus("courier", titles["courier"], up=not waits, pid=None, url=None, detail=detail)
    return (part("tiled"), part("prefect"), courier)


def _part(
    name: str, title: str, process: ManagedProcess | None, state: StackState, *, url: str | None, check: str | None
) -> PartStatus:
    if process is None:
        when = f" {datetime.fromtimestamp(state.stopped_s):%Y-%m-%d %H:%M}" if state.stopped_s else ""
        detail = f"stopped{when}" if state.was_used else "not started"
        return PartStatus(name, title, up=False, pid=None, url=None, detail=detail)
    alive, problem = process.is_alive(), ""
    if not alive:
        problem = f"gone, see {process.log}"
    elif check and not answers(check):
        problem = f"no answer, see {process.log}"
    elif not process.ready:
        problem = "starting"
    return PartStatus(name, title, up=not problem, pid=process.pid if alive else None, url=url, detail=problem)


def _outbox(settings: Settings) -> tuple[OutboxCounts | None, str | None]:
    try:
        with existing_outbox(settings.outbox_path) as outbox:
            return outbox.counts() if outbox else OutboxCounts(), None
    except BlueskyPrefectError as error:
        return None, str(error)


def _flow_runs(ask: Callable[..., Any], ui_url: str, limit: int) -> tuple[tuple[FlowRunStatus, ...], str | None]:
    # Flow runs within flow runs are shown by their parents; those that a schedule made are no runs'.
    by_nobody: dict[str, Any] = {"parent_task_run_id": {"is_null_": True}, "created_by": {"is_null_": True}}
    body = {"sort": "EXPECTED_START_TIME_DESC", "limit": min(2 * limit + _NOT_OF_RUNS, _PAGE)}
    try:
        try:
            found = ask("flow_runs/filter", body={**body, "flow_runs": by_nobody})
        except StackError:
            # A server before 3.7 does not know who created a flow run.
            del by_nobody["created_by"]
            found = ask("flow_runs/filter", body={**body, "flow_runs": by_nobody})
    except StackError as error:
        return (), str(error)
    flow_runs = (
        FlowRunStatus(
            name=one["name"],
            state=one["state_name"] or "Unknown",
            created=one["created"],
            run_s=one["estimated_run_time"],
            url=flow_run_url(ui_url, one["id"], failed=one["state_type"] in FAILED_STATES),
            workflow=(key_parts(one["idempotency_key"] or "") or ("", ""))[1],
        )
        for one in found
        if is_of_run(one["tags"], one["parameters"])
    )
    return tuple(islice(flow_runs, limit)), None
