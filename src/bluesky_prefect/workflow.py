"""Which deployment a finished run starts."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from bluesky_prefect.documents import jsonable
from bluesky_prefect.exceptions import ConfigurationError
from bluesky_prefect.run import Run

FAILURE, SUCCESS = "failure", "success"
_BLOCK = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")

End = Literal["failure", "success"]


def always(run: Run) -> bool:
    """Accept every run, also an aborted or failed one."""
    return True


def succeeded(run: Run) -> bool:
    """Accept a run that ended with exit status ``success``."""
    return run.exit_status == "success"


@dataclass(frozen=True)
class Workflow:
    """A Prefect deployment, and the runs that start it.

    Parameters
    ----------
    deployment : str
        Name of the deployment as Prefect writes it: ``"flow-name/deployment-name"``.
    when : callable, optional
        Called with the `Run`; a true answer starts the workflow. Every run by default.
    parameters : callable or mapping, optional
        The flow's parameters, or a callable that returns them for a `Run`. By default the flow gets, by name, what
        its deployment's parameter schema asks for (``ref``, ``uid``, ``stop_doc`` and so on).
    name : str, optional
        Tells two workflows of one deployment apart. The deployment's name by default.
    notify : str or iterable of str, optional
        Prefect notification blocks through which people are told how the flow run ended, each named as its type and
        its own name: ``"slack/mon-beamline"``. Prefect knows the address; it never stands here.
    notify_on : {'failure', 'success'} or iterable of these, optional
        Which ends they are told of: that it failed or crashed (by default), or that it completed.

    Raises
    ------
    ConfigurationError
        If `deployment` is not of the form ``flow-name/deployment-name``, or another argument is of no use.

    Notes
    -----
    `when` and `parameters` run on the RunEngine's thread: they should be quick. If one raises, the run's submission
    is kept as a dead letter with the reason; the plan goes on.
    """

    deployment: str
    when: Callable[[Run], bool] = always
    parameters: Callable[[Run], Mapping[str, Any]] | Mapping[str, Any] | None = None
    name: str = ""
    notify: str | Iterable[str] = ()
    notify_on: End | Iterable[End] = FAILURE

    def __post_init__(self) -> None:
        flow, _, deployment = str(self.deployment).partition("/")
        if not isinstance(self.deployment, str) or not flow or not deployment or "/" in deployment:
            raise ConfigurationError(
                f"{self.deployment!r} is not the name of a deployment. Write it as Prefect does, "
                "'flow-name/deployment-name', for example 'my-workflow/local' (see: prefect deployment ls)."
            )
        if not callable(self.when):
            raise ConfigurationError(f"when={self.when!r} of {self.deployment} is not callable with a run.")
        if not (self.parameters is None or callable(self.parameters) or isinstance(self.parameters, Mapping)):
            raise ConfigurationError(
                f"parameters={self.parameters!r} of {self.deployment} is neither a mapping nor callable with a run."
            )
        if not self.name:
            object.__setattr__(self, "name", self.deployment)
        for name in ("notify", "notify_on"):
            object.__setattr__(self, name, _texts(getattr(self, name), f"{name}= of {self.deployment}"))
        if not all(map(_BLOCK.fullmatch, self.notify)):
            # What was given is not repeated here: it may be the address itself, which is a secret.
            raise ConfigurationError(
                f"notify= of {self.deployment} names Prefect notification blocks, each as 'type/name', for example "
                "'slack/mon-beamline' (see: prefect block ls). Addresses belong into the block."
            )
        if not self.notify_on or not set(self.notify_on) <= {FAILURE, SUCCESS}:
            raise ConfigurationError(
                f"notify_on={self.notify_on!r} of {self.deployment}: write 'failure' or 'success'."
            )

    @property
    def notices(self) -> tuple[str, ...]:
        """Who is told of which end, as ``"failure:slack/mon-beamline"``."""
        return tuple(dict.fromkeys(f"{end}:{block}" for block in self.notify for end in self.notify_on))

    def parameters_for(self, run: Run) -> dict[str, Any] | None:
        """Return the parameters given for `run` as JSON values, or None if the deployment's schema decides.

        Raises
        ------
        ConfigurationError
            If the callable returned something other than a mapping, or one that cannot be read.
        Exception
            Whatever the callable raises.
        """
        given = self.parameters(run) if callable(self.parameters) else self.parameters
        if given is not None and not isinstance(given, Mapping):
            raise ConfigurationError(f"parameters= returned {type(given).__name__}, not a mapping of names to values.")
        parameters = None if given is None else jsonable(given)
        if not isinstance(parameters, dict | None):
            raise ConfigurationError(
                f"parameters= returned a {type(given).__name__} that cannot be read: {parameters}."
            )
        return parameters


def _texts(given: Any, what: str) -> tuple[str, ...]:
    listed = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not all(isinstance(one, str) for one in listed):
        raise ConfigurationError(f"{what} is neither text nor a list of texts.")
    return listed


def load_workflows(where: str) -> "tuple[Workflow, ...]":
    """Return the workflows that ``module:attribute`` names.

    A facility keeps its list in one importable place: its profile subscribes it, and reconciliation looks it up to
    know which workflows a run should have had.

    Raises
    ------
    ConfigurationError
        If there is no such module or attribute, or it holds no workflows.
    """
    module_name, _, attribute = where.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"{where!r} does not say where the workflows are: write 'module:attribute' in BLUESKY_PREFECT_WORKFLOWS."
        )
    try:
        found = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The workflows {where!r} cannot be imported ({error}): check BLUESKY_PREFECT_WORKFLOWS, and that the "
            "module is installed where this runs."
        ) from error
    return as_workflows(found)


def as_workflows(workflows: "str | Workflow | Iterable[str | Workflow]") -> tuple[Workflow, ...]:
    """Return `workflows` as a tuple of `Workflow`, each of another name.

    Raises
    ------
    ConfigurationError
        If there is none, or two have the same name.
    """
    listed = [workflows] if isinstance(workflows, str | Workflow) else list(workflows)
    made = tuple(item if isinstance(item, Workflow) else Workflow(item) for item in listed)
    if not made:
        raise ConfigurationError("No workflow given: name at least one deployment, for example 'my-workflow/local'.")
    names = [workflow.name for workflow in made]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"Two workflows are called {name!r}, so one run would start only one of them. "
                "Tell them apart: Workflow(..., name='...')."
            )
    return made


DEFAULT_WORKFLOWS = (Workflow("my-workflow/local"),)
"""What a beamline starts that has said nothing else."""
