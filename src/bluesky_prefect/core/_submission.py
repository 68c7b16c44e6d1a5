"""A submission: one workflow for one run, on its way from the callback to Prefect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson

from bluesky_prefect.core._documents import jsonable
from bluesky_prefect.core._run import Run
from bluesky_prefect.core._workflow import RUN_FAILURE

# All of a run's documents that a message tells.
_TOLD = ("scan_id", "plan_name", "time", "exit_status", "reason")
# Documents that are JSON already, by their identity.
Written = dict[int, orjson.Fragment]


@dataclass(frozen=True)
class Submission:
    """One workflow to start for one run, made of JSON values only.

    Attributes
    ----------
    key : str
        Identifies the submission for ever; the same run and workflow give the same key.
    workflow, deployment : str
        The workflow's name, and the deployment it starts. For a message about a failed run, both are the notice; see
        `is_message`.
    run_uid : str
        The run's uid.
    start, stop : Mapping
        The run's start document (empty if unknown) and stop document.
    parameters : Mapping or None
        Parameters to pass as they are; None if the deployment's schema decides by name.
    overrides : Mapping
        Parameters that a person gave for this one submission; they win over all others.
    generation : int
        0 for the first time, one more for each time that the workflow is started again on the same run.
    undecided : bool
        True if the workflow's ``when`` or ``parameters`` raised: whether the run is wanted and with which parameters
        is not known, so it is kept as a dead letter only, and never sent as it is.
    notify : Sequence of str
        Who is told of the end of its flow run; see `Workflow.notices`.
    beamline : str or None
        The beamline that the run was taken at, if it has a name.
    """

    key: str
    workflow: str
    deployment: str
    run_uid: str
    start: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    generation: int = 0
    undecided: bool = False
    notify: Sequence[str] = ()
    beamline: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "notify", tuple(self.notify))  # JSON makes a list of it

    @property
    def run(self) -> Run:
        """The run, without its files."""
        return Run(uid=self.run_uid, start=self.start, stop=self.stop)

    @classmethod
    def message(cls, run: Run, notice: str) -> "Submission":
        """Return what has people told that a run failed; see `Workflow.run_notices`."""
        start, stop = (
            {name: document[name] for name in _TOLD if name in document} for document in (run.start, run.stop)
        )
        return cls(submission_key(run.uid, notice), notice, notice, run.uid, start, stop)

    def to_json(self, written: Written | None = None) -> bytes:
        """Return the submission as JSON text.

        Parameters
        ----------
        written : dict, optional
            Documents that are JSON already, by their identity; those of this submission are added. So each is converted
            once, however many workflows a run has.
        """
        documents = {} if written is None else written
        for document in (self.start, self.stop):
            # Each by itself: a document of as many values as may be kept must not use up those of the next.
            if id(document) not in documents:
                documents[id(document)] = orjson.Fragment(orjson.dumps(jsonable(document)))
        shared = {name: documents[id(getattr(self, name))] for name in ("start", "stop")}
        return orjson.dumps({name: shared.get(name) or jsonable(value) for name, value in vars(self).items()})

    @classmethod
    def from_json(cls, text: bytes | str) -> "Submission":
        """Return the submission that `to_json` wrote; fields that this version does not know are passed over.

        Raises
        ------
        ValueError
            If `text` is not JSON.
        TypeError
            If it is not that of a submission.
        """
        content = orjson.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"a submission is not a {type(content).__name__}")
        return cls(**{name: content[name] for name in cls.__dataclass_fields__ if name in content})


def is_message(deployment: str) -> bool:
    """Tell whether a submission for this starts no flow run, but has people told that the run failed."""
    return deployment.startswith(f"{RUN_FAILURE}:")


def submission_key(run_uid: str, workflow: str, generation: int = 0) -> str:
    """Return the key of the submission of `workflow` for the run `run_uid`.

    Whoever makes the same generation of the same workflow for the same run makes the same key, and Prefect makes one
    flow run of a key: that is why two people who repair the same thing at the same time make no duplicate.
    """
    # A uid may be any text; these two characters must not make it the key of another run.
    uid = run_uid.replace("%", "%25").replace("#", "%23").replace(":", "%3A")
    return f"{uid}#{generation}:{workflow}" if generation else f"{uid}:{workflow}"


def key_parts(key: str) -> tuple[str, str, int] | None:
    """Return the run's uid, the workflow's name and the generation that `submission_key` made a key of.

    None if it did not make this one.
    """
    head, colon, workflow = key.partition(":")
    uid, _, generation = head.partition("#")
    if not colon or not uid or not (generation or "0").isdecimal():
        return None
    return unquote(uid), workflow, int(generation or 0)
