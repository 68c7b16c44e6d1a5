"""The workflows of a beamline: what its sessions start, and what reconciliation compares with."""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Self

from bluesky_prefect.core._daemon_thread import on_daemon_thread
from bluesky_prefect.core._exceptions import ConfigurationError
from bluesky_prefect.core._python_file import file_identity, run_file
from bluesky_prefect.core._run import Run
from bluesky_prefect.core._text import error_line
from bluesky_prefect.core._workflow import Workflow, always

logger = logging.getLogger(__name__)

# The RunEngine waits no longer for a list that has changed.
_PATIENCE_S = 0.5


class WorkflowList(tuple[Workflow, ...]):
    """The workflows of a beamline, and which runs are the beamline's.

    Parameters
    ----------
    workflows : str, Workflow or iterable of these
        What a run starts.
    ours : callable, optional
        Called with the `Run`, which has no stop document while it goes on; a true answer says that it is a run of
        this beamline. Reconciliation and listeners look at no other run: needed where beamlines share a catalog in
        Tiled, or a topic. It is not asked of a session's own runs, of dead letters and of runs kept in files: a session
        and a state directory are one beamline's.

    Raises
    ------
    ConfigurationError
        If there is no workflow, or two have the same name.

    Examples
    --------
    >>> WorkflowList("my-workflow/srx", ours=lambda run: run.start.get("beamline_id") == "srx")  # doctest: +SKIP
    """

    ours: Callable[[Run], bool]

    def __new__(
        cls, workflows: "str | Workflow | Iterable[str | Workflow]", ours: Callable[[Run], bool] = always
    ) -> Self:
        """Check the workflows, and that no name stands for two of them."""
        listed = [workflows] if isinstance(workflows, str | Workflow) else list(workflows)
        made = super().__new__(cls, (item if isinstance(item, Workflow) else Workflow(item) for item in listed))
        if not made:
            raise ConfigurationError(
                "No workflow given: name at least one deployment, for example 'my-workflow/local'."
            )
        if not callable(ours):
            raise ConfigurationError(f"ours={ours!r} of a list of workflows is not callable with a run.")
        _tell_apart(made)
        made.ours = ours
        return made

    def is_ours(self, run: Run) -> bool:
        """Tell whether a run is the beamline's; one of which nobody can tell is, so that none is lost."""
        try:
            return not run.start or bool(self.ours(run))
        except Exception as error:  # noqa: BLE001 - a facility's own function
            logger.error("Run %s is taken for one of ours: ours= failed: %s", run.uid, error_line(error))
            return True

    @classmethod
    def of_none(cls) -> Self:
        """Return the list of a session that starts nothing, since its own list cannot be had."""
        made = super().__new__(cls)
        made.ours = always
        return made


def _tell_apart(workflows: Iterable[Workflow]) -> None:
    of_name: dict[str, Workflow] = {}
    for workflow in workflows:
        for name in dict.fromkeys(workflow.names):
            if name in of_name:
                raise _ambiguous(name, of_name[name], workflow)
            of_name[name] = workflow


def _ambiguous(name: str, first: Workflow, second: Workflow) -> ConfigurationError:
    if first.name == second.name:
        return ConfigurationError(
            f"Two workflows are called {name!r}, so one run would start only one of them. "
            "Tell them apart: Workflow(..., name='...')."
        )
    return ConfigurationError(
        f"{name!r} is or was the name of two workflows, {first.name!r} and {second.name!r}, so nobody knows whose "
        "flow runs are meant. Take it out of was= of one of them."
    )


def as_workflows(workflows: "str | Workflow | Iterable[str | Workflow]") -> WorkflowList:
    """Return `workflows` as a `WorkflowList`, which may refuse them; one that is such a list is left as it is."""
    return workflows if isinstance(workflows, WorkflowList) else WorkflowList(workflows)


def load_workflows(where: str) -> WorkflowList:
    """Return the workflows that ``module:attribute``, or ``/path/to/file.py:attribute``, names.

    A facility keeps its list in one place: its profile subscribes it, and reconciliation looks it up to know which
    workflows a run should have had. A file is read anew each time, and need not be importable.

    Raises
    ------
    ConfigurationError
        If there is no such module, file or attribute, or it holds no workflows.
    """
    place, _, attribute = where.rpartition(":")
    if not place or not attribute:
        raise ConfigurationError(
            f"{where!r} does not say where the workflows are: write 'module:attribute' or '/path/to/file.py:attribute',"
            " as in BLUESKY_PREFECT_WORKFLOWS=my_beamline.workflows:workflows."
        )
    file = file_of_list(where)
    try:
        module: ModuleType = run_file(file) if file else import_module(place)
        return as_workflows(getattr(module, attribute))
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # a facility's own module may raise anything
        raise ConfigurationError(
            f"The workflows {where!r} cannot be imported ({error_line(error)}): check BLUESKY_PREFECT_WORKFLOWS, and "
            "that the module is installed where this runs."
        ) from error


def file_of_list(where: str | None) -> Path | None:
    """Return the file that holds a list of workflows, where one is named by its path."""
    place = (where or "").rpartition(":")[0]
    return Path(place).absolute() if place.endswith(".py") else None


class FollowedList:
    """A list of workflows in a file, which is read again once the file has changed.

    Parameters
    ----------
    where : str or None
        Where the list is; one that is not named by the path of a file never changes.
    """

    def __init__(self, where: str | None) -> None:
        self._where = where or ""
        self._file = file_of_list(where)
        self._identity = self._file and file_identity(self._file)
        self._looking: Future[WorkflowList | None] | None = None

    def changed(self) -> WorkflowList | None:
        """Return the list if its file has changed since it was last looked at, and the list can be used.

        One that cannot is told of; the caller goes on with the one that it has. So it does if the file takes longer
        than half a second, as on a disk that hangs: then a later call returns what came of it.
        """
        if self._file is None:
            return None
        looking = self._looking
        try:
            looking = looking or on_daemon_thread(self._look)
            listed = looking.result(0.0 if self._looking else _PATIENCE_S)
        except RuntimeError:  # no thread can be started now
            return None
        except TimeoutError:
            if self._looking is None:
                logger.warning("%s is not read yet; until it is, runs start the previous workflows.", self._file)
            self._looking = looking
            return None
        self._looking = None
        return listed

    def _look(self) -> WorkflowList | None:
        if self._file is None or (identity := file_identity(self._file)) == self._identity:
            return None
        self._identity = identity
        try:
            listed = load_workflows(self._where)
        except ConfigurationError as error:
            logger.error("%s Until it is corrected, runs start the previous workflows.", error)
            return None
        logger.info("%s has changed. Runs start: %s", self._file, ", ".join(one.name for one in listed))
        return listed


def default_workflows(beamline: str | None = None) -> WorkflowList:
    """Return the workflows of a session that names none, and that no list is named for."""
    return as_workflows(DEFAULT_WORKFLOWS if beamline is None else f"my-workflow/{beamline}")


def workflows_of_session(
    given: "str | Workflow | Iterable[str | Workflow] | None", listed_at: str | None, *, beamline: str | None = None
) -> WorkflowList:
    """Return the workflows that a session starts, and log once how they differ from those that reconciliation knows.

    Parameters
    ----------
    given : str, Workflow, iterable of these, or None
        What the session names.
    listed_at : str or None
        Where the list is that reconciliation compares with; None if the session does not know.
    beamline : str, optional
        The session's beamline, whose deployment is started where nothing else is named.

    Raises
    ------
    ConfigurationError
        If the session's own workflows cannot work as given.
    """
    if given is None:
        return load_workflows(listed_at) if listed_at else default_workflows(beamline)
    workflows = as_workflows(given)
    if listed_at:
        _tell_differences(workflows, listed_at)
    return workflows


def _tell_differences(session: WorkflowList, listed_at: str) -> None:
    try:
        listed = load_workflows(listed_at)
    except ConfigurationError as error:
        # The session has its own; its scans go on.
        logger.warning("What reconciliation compares with is not known here. %s", error)
        return
    if differences := "; ".join(_differences(session, listed)):
        logger.warning(
            "The workflows of this session are not those of the list %s, with which reconciliation compares: %s.",
            listed_at,
            differences,
        )


def _differences(session: WorkflowList, listed: WorkflowList) -> Iterator[str]:
    subscribed = {name: workflow for workflow in session for name in workflow.names}
    in_list = {name: workflow for workflow in listed for name in workflow.names}
    missing = [one.name for one in listed if not subscribed.keys() & set(one.names)]
    extra = [one.name for one in session if not in_list.keys() & set(one.names)]
    differing = [
        one.name for one in session for name in one.names if name in in_list and one.when != in_list[name].when
    ]
    if missing:
        yield f"it also starts {', '.join(missing)} on the runs of this session, where when= allows"
    if extra:
        yield f"it does not start {', '.join(extra)} again"
    if differing:
        names = ", ".join(differing)
        yield f"the list has another when= for {names}, and what this session refuses is known on this machine only"


DEFAULT_WORKFLOWS = (Workflow("my-workflow/local"),)
"""Workflows of a session that names none, and has no beamline."""
