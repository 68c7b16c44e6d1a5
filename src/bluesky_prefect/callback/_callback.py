"""The callback that a RunEngine, or any other source of documents, calls."""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from event_model import DocumentRouter

from bluesky_prefect.callback._decision import Decision, decide, ends_process, messages
from bluesky_prefect.callback._open_runs import OpenRuns
from bluesky_prefect.callback._recent_runs import RecentRuns
from bluesky_prefect.core import (
    FollowedList,
    OutboxError,
    Run,
    Settings,
    Workflow,
    Written,
    api_address,
    convert_document,
    error_and_place,
    get_settings,
    jsonable,
    one_line,
    run_name,
    submission_key,
    uid_text,
    workflows_of_session,
)
from bluesky_prefect.courier import CLOSE_TIMEOUT_S, Forwarder
from bluesky_prefect.outbox import Draft, Entry, Outbox, stopped_runs

if TYPE_CHECKING:
    from event_model import Resource, RunStart, RunStop, StreamResource

    from bluesky_prefect.metrics import Signals

logger = logging.getLogger(__name__)


class PrefectCallback(DocumentRouter):
    """Starts Prefect flows when runs end.

    Subscribe it to a RunEngine, or to any other source of Bluesky documents. When a run's stop document arrives, each
    workflow that wants the run is written to the outbox on disk; a background thread takes it to Prefect. Nothing
    here raises into the RunEngine or waits for the network.

    A run whose start document holds ``prefect=False`` starts nothing.

    Parameters
    ----------
    workflows : str, Workflow or iterable of these, optional
        The deployments to start, for example ``"my-workflow/local"``. By default the list that the setting
        ``workflows`` names, which is the one that reconciliation compares with; ``"my-workflow/local"`` if it names
        none, or the deployment that is called after the setting ``beamline``. Where the two differ, a warning says how.
        If that list is a file, the next run follows a change of it.
    settings : Settings, optional
        Where the outbox lies, time-outs and waits; from the environment by default.
    signals : Signals, optional
        Where the background thread notes what it does, for this process's metrics.
    only_ours : bool, optional
        Start nothing on runs that the list does not call the beamline's (`WorkflowList`), where the documents may be of
        several beamlines.

    Raises
    ------
    ConfigurationError
        If a workflow cannot work as given.

    Examples
    --------
    >>> RE.subscribe(PrefectCallback("my-workflow/local"))  # doctest: +SKIP
    """

    def __init__(
        self,
        workflows: str | Workflow | Iterable[str | Workflow] | None = None,
        *,
        settings: Settings | None = None,
        signals: "Signals | None" = None,
        only_ours: bool = False,
    ) -> None:
        super().__init__()
        settings = settings or get_settings()
        self._listed = FollowedList(settings.workflows if workflows is None else None)
        self._beamline = settings.beamline
        self._only_ours = only_ours
        self.workflows = workflows_of_session(workflows, settings.workflows, beamline=settings.beamline)
        self.outbox = Outbox(settings.outbox_path, lease_s=settings.lease_s)
        self._memory = Outbox(None)
        self._open_runs = OpenRuns()
        self._recent_runs = RecentRuns()
        self._told: set[tuple[str, str]] = set()
        # Documents that are not here are passed over with one look-up.
        self._handlers: dict[str, Callable[[Any], None]] = {
            "start": self.start,
            "resource": self.resource,
            "stream_resource": self.stream_resource,
            "stop": self.stop,
        }
        self._check_outbox()
        deployments = [workflow.deployment for workflow in self.workflows]
        notices = [notice for one in self.workflows for notice in (*one.notices, *one.run_notices)]
        self._forwarder = Forwarder(
            [self.outbox, self._memory],
            settings,
            deployments=deployments,
            notices=notices,
            stands_by=True,
            signals=signals,
        )
        self._forwarder.start()

    def __call__(self, name: str, doc: Any, validate: bool = False) -> tuple[str, Any]:
        """Take one document. Raises nothing, which would abort the plan, but what ends the process."""
        try:
            handler = self._handlers.get(name)
            if handler is not None:
                handler(doc)
        except BaseException as error:
            if ends_process(error):
                raise
            kind = one_line(jsonable(name), 60)
            logger.error("A %s document could not be handled; the plan goes on: %s", kind, error_and_place(error))
        return name, doc

    def start(self, doc: "RunStart") -> None:
        """Remember a run's start document."""
        # Converted now: what the document holds by reference may change while the run goes on.
        start = convert_document(doc)
        self._open_runs.add(uid_text(start["uid"]), start)
        self._forget_superfluous()
        self.follow_list()

    def resource(self, doc: "Resource") -> None:
        """Remember a file that a run refers to."""
        path = PurePosixPath(doc.get("root") or "/") / doc["resource_path"].lstrip("/")
        # A file name that is not UTF-8 reaches Python with surrogates in it.
        quoted = quote(str(path).encode("utf-8", "surrogateescape"))
        self._add_file(doc.get("run_start"), "file://localhost/" + quoted.lstrip("/"))

    def stream_resource(self, doc: "StreamResource") -> None:
        """Remember a file that a run refers to."""
        self._add_file(doc.get("run_start"), doc["uri"])

    def stop(self, doc: "RunStop") -> None:
        """Put a submission on disk for each workflow that wants the run; return when they are there."""
        stop = convert_document(doc)
        if not isinstance(stop, dict):
            stop = {"document": stop}
        uid = uid_text(stop.get("run_start") or stop.get("uid") or str(uuid.uuid4()))
        start, files = self._known(uid)
        self.run_stopped(Run(uid=uid, start=start, stop=stop, files=tuple(files)))

    def follow_list(self) -> None:
        """Take over a change of the list of workflows, if there is one: the next run is of the new list."""
        if changed := self._listed.changed():
            self.workflows = changed
            self._forwarder.look_up([workflow.deployment for workflow in changed])

    def run_stopped(self, run: Run) -> None:
        """Put a submission on disk for each workflow that wants a run that has stopped.

        `stop` does so with the documents that it has seen; other sources may know the run as a whole.
        """
        uid, start = run.uid, run.start
        # Written before a workflow gets hold of it, and once for all of them.
        written = {id(start): self._recent_runs.remember(uid, start, run.files)}
        opted_out = start.get("prefect") is False or (self._only_ours and not self.workflows.is_ours(run.copy()))
        decisions: list[Decision] = []
        if opted_out:
            logger.debug("Run %s opted out, or is another beamline's", uid)
        else:
            # All of them before anything is written: what is written is all, or nothing.
            decisions = [decide(workflow, run, beamline=self._beamline) for workflow in self.workflows]
            # Who refuses a run without its start document may want it with that: reconciliation asks again.
            kept = [decision.draft for decision in decisions if decision.is_wanted or start]
            self._keep(kept + messages(self.workflows, decisions, run), written)
            self._forwarder.wake()
        started = [decision.draft.submission.workflow for decision in decisions if decision.is_wanted]
        sent = [decision.draft.submission.workflow for decision in decisions if decision.draft.state == "waiting"]
        known = [workflow.name for workflow in self.workflows]
        outboxes = [self.outbox, self._memory]
        name = run_name(start.get("scan_id"), start.get("plan_name"), uid)
        if started:
            logger.info("%s starts %s", name, ", ".join(started))
        stopped_runs.note(
            uid, name=name, opted_out=opted_out, started=started, sent=sent, known=known, outboxes=outboxes
        )
        for interrupt in filter(None, (decision.interrupt for decision in decisions)):
            raise interrupt

    @property
    def outboxes(self) -> Sequence[Outbox]:
        """The outbox on disk, and that in memory, for what the disk has refused."""
        return self.outbox, self._memory

    @property
    def has_all_on_disk(self) -> bool:
        """True unless only this process's memory holds a submission, since the disk has refused it."""
        counts = self._memory.counts()
        return not (counts.waiting or counts.dead)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Send what can be sent now and end the background thread.

        Parameters
        ----------
        timeout_s : float
            How long to wait for that, in seconds. What is not sent by then stays in the outbox.

        Returns
        -------
        bool
            Whether the thread has ended in time.
        """
        ended = self._forwarder.close(timeout_s)
        if ended:
            self.outbox.close()
        return ended

    def _add_file(self, run_uid: Any, uri: Any) -> None:
        if not isinstance(uri, str):
            raise TypeError(f"the address of a file is a {type(uri).__name__}, not text")
        self._open_runs.add_file(None if run_uid is None else uid_text(run_uid), jsonable(uri))
        self._forget_superfluous()

    def _forget_superfluous(self) -> None:
        while oldest := self._open_runs.pop_superfluous():
            self._recent_runs.remember(oldest.uid, oldest.start, oldest.files)
            logger.warning("Run %s has no stop document, and many or large runs began since", oldest.uid)

    def _known(self, uid: str) -> tuple[dict[str, Any], Iterable[str]]:
        """Return start document and files of a run that stops now, or has stopped before."""
        if opened := self._open_runs.pop(uid):
            return opened.start, opened.files
        return self._recent_runs.find(uid) or ({}, ())

    def _keep(self, drafts: Sequence[Draft], written: Written) -> None:
        # As exactly as it is known: the forwarder has asked Prefect itself.
        api_url = self._forwarder.api_url or api_address()
        try:
            present = self.outbox.put_all(drafts, api_url=api_url, written=written)
        except OutboxError as error:
            logger.error(
                "Run %s is kept in memory only, and lost if this session ends before Prefect has it. %s "
                "Make room or make it writable.",
                drafts[0].submission.run_uid,
                error,
            )
            present = self._memory.put_all(drafts, api_url=api_url, written=written)
        refused = {draft.submission.key for draft in drafts if draft.state == "declined"}
        for entry in present:
            if entry.key not in refused:
                self._compare(entry)

    def _compare(self, present: Entry) -> None:
        """Say so if what is in the outbox in the place of a submission is not the same workflow's."""
        own = next((one for one in self.workflows if submission_key(present.run_uid, one.name) == present.key), None)
        if own is None or not (difference := _difference(own, present)) or (own.name, difference) in self._told:
            return
        self._told.add((own.name, difference))
        logger.error(
            "Run %s: what this callback calls %r is not started: the outbox holds another workflow of that name, %s. "
            "Tell the two apart: Workflow(..., name='...').",
            present.run_uid,
            own.name,
            difference,
        )

    def _check_outbox(self) -> None:
        """Look at the start, not at the first scan's end, whether the disk will do."""
        try:
            counts = self.outbox.counts()
        except OutboxError as error:
            logger.debug("Left to the forwarder, which tells of it in a moment: %s", error)
        else:
            if counts.waiting:
                logger.info("Left to be sent by earlier sessions: %d (in %s)", counts.waiting, self.outbox.path)


def _difference(own: Workflow, present: Entry) -> str:
    """Return how the workflow of an entry differs from one of the same name; empty if it does not."""
    if present.deployment != own.deployment:
        return f"which starts {present.deployment} and not {own.deployment}"
    if callable(own.parameters) or present.state == "declined" or not present.is_readable:
        return ""  # what a callable returns may change by itself
    other = jsonable(own.parameters) != present.submission.parameters and not present.submission.undecided
    return "with other parameters" if other else ""
