"""The callback that a RunEngine, or any other source of documents, calls."""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from event_model import DocumentRouter

from bluesky_prefect.documents import jsonable, uid_text
from bluesky_prefect.exceptions import OutboxError
from bluesky_prefect.forwarder import CLOSE_TIMEOUT_S, Forwarder
from bluesky_prefect.outbox import Outbox
from bluesky_prefect.run import Run
from bluesky_prefect.settings import Settings, get_settings
from bluesky_prefect.stopped_runs import stopped_runs
from bluesky_prefect.submission import Submission, submission_key
from bluesky_prefect.texts import error_and_place, error_line, one_line
from bluesky_prefect.workflow import Workflow, as_workflows, load_workflows

logger = logging.getLogger(__name__)

# Runs without a stop document (a killed RunEngine upstream of a dispatcher) must not pile up.
MAX_OPEN_RUNS = 1000


@dataclass
class _OpenRun:
    """What is known of a run before its stop document."""

    start: dict[str, Any]
    files: dict[str, None] = field(default_factory=dict)  # an ordered set


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
        ``workflows`` names, which is the one that reconciliation compares with.
    settings : Settings, optional
        Where the outbox lies, time-outs and waits; from the environment by default.

    Raises
    ------
    ConfigurationError
        If a workflow cannot work as given.

    Examples
    --------
    >>> RE.subscribe(PrefectCallback("my-workflow/local"))  # doctest: +SKIP
    """

    def __init__(
        self, workflows: str | Workflow | Iterable[str | Workflow] | None = None, *, settings: Settings | None = None
    ) -> None:
        super().__init__()
        settings = settings or get_settings()
        self.workflows = load_workflows(settings.workflows) if workflows is None else as_workflows(workflows)
        self.outbox = Outbox(settings.outbox_path, lease_s=settings.lease_s)
        self._memory = Outbox(None)
        self._open_runs: dict[str, _OpenRun] = {}
        # Documents that are not here are passed over with one look-up.
        self._handlers: dict[str, Callable[[Any], None]] = {
            "start": self.start,
            "resource": self.resource,
            "stream_resource": self.stream_resource,
            "stop": self.stop,
        }
        self._check_outbox()
        deployments = [workflow.deployment for workflow in self.workflows]
        notices = [notice for workflow in self.workflows for notice in workflow.notices]
        self._forwarder = Forwarder([self.outbox, self._memory], settings, deployments=deployments, notices=notices)
        self._forwarder.start()

    def __call__(self, name: str, doc: Any, validate: bool = False) -> tuple[str, Any]:
        """Take one document. Never raises an `Exception`: that would abort the plan."""
        try:
            handler = self._handlers.get(name)
            if handler is not None:
                handler(doc)
        except Exception as error:  # noqa: BLE001 - the plan goes on, whatever it is
            kind = one_line(jsonable(name), 60)
            logger.error("A %s document could not be handled; the plan goes on: %s", kind, error_and_place(error))
        return name, doc

    def start(self, doc: Any) -> None:
        """Remember a run's start document."""
        if len(self._open_runs) >= MAX_OPEN_RUNS:
            oldest = next(iter(self._open_runs))
            del self._open_runs[oldest]
            logger.warning("Run %s has no stop document and %d runs began since", oldest, MAX_OPEN_RUNS)
        # Converted now: what the document holds by reference may change while the run goes on.
        start = jsonable(doc)
        self._open_runs[uid_text(start["uid"])] = _OpenRun(start)

    def resource(self, doc: Any) -> None:
        """Remember a file that a run refers to."""
        path = PurePosixPath(doc.get("root") or "/") / doc["resource_path"].lstrip("/")
        # A file name that is not UTF-8 reaches Python with surrogates in it.
        quoted = quote(str(path).encode("utf-8", "surrogateescape"))
        self._add_file(doc.get("run_start"), "file://localhost/" + quoted.lstrip("/"))

    def stream_resource(self, doc: Any) -> None:
        """Remember a file that a run refers to."""
        self._add_file(doc.get("run_start"), doc["uri"])

    def stop(self, doc: Any) -> None:
        """Put a submission on disk for each workflow that wants the run; return when they are there."""
        stop = jsonable(doc)
        if not isinstance(stop, dict):
            stop = {"document": stop}
        uid = uid_text(stop.get("run_start") or stop.get("uid") or str(uuid.uuid4()))
        opened = self._open_runs.pop(uid, None) or _OpenRun({})
        opted_out = opened.start.get("prefect") is False
        started: list[str] = []
        if opted_out:
            logger.debug("Run %s opted out", uid)
        else:
            run = Run(uid=uid, start=opened.start, stop=stop, files=tuple(opened.files))
            started = [workflow.name for workflow in self.workflows if self._submit(workflow, run)]
            self._forwarder.wake()
        known = [workflow.name for workflow in self.workflows]
        outboxes = [self.outbox, self._memory]
        stopped_runs.note(uid, opted_out=opted_out, started=started, known=known, outboxes=outboxes)

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
        if run_uid is None and len(self._open_runs) == 1:  # older resource documents do not name their run
            [opened] = self._open_runs.values()
        else:
            opened = self._open_runs.get(uid_text(run_uid))
        if opened is not None:
            opened.files[jsonable(uri)] = None

    def _submit(self, workflow: Workflow, run: Run) -> bool:
        """Put a workflow's submission in the outbox; return False if the workflow does not want the run."""
        dead: str | None = None
        parameters: Mapping[str, Any] | None = None
        try:
            if not workflow.when(run):
                return False
            parameters = workflow.parameters_for(run)
        except Exception as error:  # noqa: BLE001 - it is somebody else's code
            # Whether this run was wanted is not known: a person has to see it.
            failed = f"when= or parameters= of workflow {workflow.name!r} failed"
            logger.error("Run %s: %s: %s", run.uid, failed, error_and_place(error))
            dead = f"{failed}: {error_line(error)}"
        self._keep(
            Submission(
                key=submission_key(run.uid, workflow.name),
                workflow=workflow.name,
                deployment=workflow.deployment,
                run_uid=run.uid,
                start=run.start,
                stop=run.stop,
                parameters=parameters,
                undecided=dead is not None,
                notify=workflow.notices,
            ),
            dead,
        )
        return True

    def _keep(self, submission: Submission, dead: str | None) -> None:
        try:
            self.outbox.put(submission, dead=dead)
        except OutboxError as error:
            logger.error(
                "Run %s is kept in memory only, and lost if this session ends before Prefect has it. %s "
                "Make room or make it writable.",
                submission.run_uid,
                error,
            )
            self._memory.put(submission, dead=dead)

    def _check_outbox(self) -> None:
        """Look at the start, not at the first scan's end, whether the disk will do."""
        try:
            counts = self.outbox.counts()
        except OutboxError as error:
            logger.debug("Left to the forwarder, which tells of it in a moment: %s", error)
        else:
            if counts.waiting:
                logger.info("Left to be sent by earlier sessions: %d (in %s)", counts.waiting, self.outbox.path)
