"""A workflow: the deployment that a finished run starts, and its conditions."""

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from typing import Any, Literal, get_args

from bluesky_prefect.core._documents import jsonable
from bluesky_prefect.core._exceptions import ConfigurationError
from bluesky_prefect.core._run import Run

FAILURE, SUCCESS, RUN_FAILURE = "failure", "success", "run-failure"
_BLOCK = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")
# The most reruns that the setting allows, too.
_MAX_RERUNS = 100

End = Literal["failure", "success", "run-failure"]
Rerun = Literal["never", "crashed", "failed"]


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
    notify_on : {'failure', 'success', 'run-failure'} or iterable of these, optional
        Which ends they are told of: that it failed or crashed (by default), or that it completed. With
        ``'run-failure'``, that the Bluesky run itself failed or was aborted, if `when` accepts it, or would have
        accepted it with exit status ``success``.
    was : str or iterable of str, optional
        Former names of the workflow. Flow runs that were started under one of them count as its own, so that a
        rename (also one of the deployment, if the workflow has no name of its own) processes no run again.
    rerun : {'never', 'crashed', 'failed'}, optional
        Which flow runs reconciliation starts again by itself: none; those that crashed, or whose process is gone; or
        those that failed, too. By default the setting ``rerun_failed`` decides. A flow that raises `DoNotRerun`, or
        returns a state of that name, is never started again by itself.
    max_reruns : int, optional
        How often, at most. By default the setting ``max_reruns`` decides.
    since : str or datetime.date or datetime.datetime, optional
        Reconciliation starts the workflow by itself on runs that stopped from then on, if they have not had it; a date
        or time as ISO 8601 writes it, local unless it says otherwise. By default from when it was first on a list:
        a new workflow is not started on the past.

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
    was: str | Iterable[str] = ()
    rerun: Rerun | None = None
    max_reruns: int | None = None
    since: str | date | None = None

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
        for name in ("notify", "notify_on", "was"):
            object.__setattr__(self, name, _texts(getattr(self, name), f"{name}= of {self.deployment}"))
        if not all(map(_BLOCK.fullmatch, self.notify)):
            # What was given is not repeated here: it may be the address itself, which is a secret.
            raise ConfigurationError(
                f"notify= of {self.deployment} names Prefect notification blocks, each as 'type/name', for example "
                "'slack/mon-beamline' (see: prefect block ls). Addresses belong into the block."
            )
        if not self.notify_on or not set(self.notify_on) <= set(get_args(End)):
            raise ConfigurationError(
                f"notify_on={self.notify_on!r} of {self.deployment}: write 'failure', 'success' or 'run-failure', or "
                "several of them."
            )
        if not all(self.was) or self.name in self.was:
            raise ConfigurationError(
                f"was={self.was!r} of {self.deployment}: name what the workflow was called before, not {self.name!r}."
            )
        self._check_rerun()
        if self.since is not None:
            object.__setattr__(self, "since", _moment(self.since, self.deployment))

    def _check_rerun(self) -> None:
        if self.rerun is not None and self.rerun not in get_args(Rerun):
            raise ConfigurationError(
                f"rerun={self.rerun!r} of {self.deployment}: write 'never', 'crashed' or 'failed' (crashed ones, too)."
            )
        if self.max_reruns is None:
            return
        if type(self.max_reruns) is not int or not 0 <= self.max_reruns <= _MAX_RERUNS:
            raise ConfigurationError(
                f"max_reruns={self.max_reruns!r} of {self.deployment}: write a number from 0 to {_MAX_RERUNS}."
            )
        if self.rerun == "never":
            raise ConfigurationError(f"{self.deployment}: rerun='never' leaves no use for max_reruns=.")

    @property
    def since_s(self) -> float | None:
        """The moment `since`, in seconds since the epoch."""
        return self.since.timestamp() if isinstance(self.since, datetime) else None

    @property
    def asks_of_run(self) -> bool:
        """True if code of the beamline's own may look at a run: `when` or `parameters`."""
        return self.when is not always or callable(self.parameters)

    def wants(self, run: Run) -> bool:
        """Return the answer of `when` for a run, whose documents it gets as copies; raises what `when` raises."""
        own = replace(run, start=deepcopy(run.start), stop=deepcopy(run.stop))
        return bool(self.when(own))  # an array may have no truth

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the workflow, and then its former ones."""
        return (self.name, *self.was)

    def under(self, name: str) -> "Workflow":
        """Return the workflow under one of its former names: what began under it goes on under it."""
        return self if name == self.name else replace(self, name=name, was=())

    @property
    def notices(self) -> tuple[str, ...]:
        """Recipients by outcome of the flow run, such as ``"failure:slack/mon-beamline"``."""
        return self._notices(FAILURE, SUCCESS)

    @property
    def run_notices(self) -> tuple[str, ...]:
        """Recipients to tell of failed runs, such as ``"run-failure:slack/mon-beamline"``."""
        return self._notices(RUN_FAILURE)

    def _notices(self, *ends: End) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"{end}:{block}" for block in self.notify for end in self.notify_on if end in ends))

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


def _moment(since: Any, deployment: str) -> datetime:
    try:
        if isinstance(since, date) and not isinstance(since, datetime):
            since = datetime.combine(since, time())
        moment = since if isinstance(since, datetime) else datetime.fromisoformat(since.strip())
        moment.timestamp()
    except (AttributeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"since={since!r} of {deployment} is not a date or time: write '2026-01-31' or '2026-01-31T14:00'."
        ) from error
    return moment


def _texts(given: Any, what: str) -> tuple[str, ...]:
    listed = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not all(isinstance(one, str) for one in listed):
        raise ConfigurationError(f"{what} is neither text nor a list of texts.")
    return listed
