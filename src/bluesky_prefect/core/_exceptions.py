"""The errors this package raises, each with a message that names the thing, the cause and the remedy."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

R = TypeVar("R")


class BlueskyPrefectError(Exception):
    """Base of every error raised by bluesky-prefect.

    IPython shows it as one line without a traceback: the message names the remedy.
    """

    def _render_traceback_(self) -> list[str]:
        # IPython's documented hook for errors that show themselves.
        return [f"{type(self).__name__}: {self}"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a call at the prompt; IPython shows it as one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted{f': {self}' if self.args else ''}."]


def called_at_prompt(call: Callable[[], R]) -> R:
    """Call; an error of this package, and Ctrl-C, have neither a chain nor the frames of the call."""
    # Not a context manager: that would put back the frames.
    try:
        return call()
    except BlueskyPrefectError as error:
        raise error.with_traceback(None) from None
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted from None


class ConfigurationError(BlueskyPrefectError):
    """A setting, a workflow or an argument cannot work as given."""


class OutboxError(BlueskyPrefectError):
    """The outbox cannot be opened, read or written."""


class SubmissionRefused(BlueskyPrefectError):
    """Prefect will never accept this submission as it is: it becomes a dead letter."""


class DeploymentMissing(BlueskyPrefectError):
    """Prefect does not know the deployment, or the notification block (yet)."""


class PrefectUnavailable(BlueskyPrefectError):
    """Prefect cannot be reached or cannot answer now; asking again later can succeed.

    Parameters
    ----------
    message : str
        The problem and the remedy.
    retry_after_s : float, optional
        How long Prefect asks to be left alone, in seconds.
    submission_specific : bool, optional
        Whether the trouble is this one submission's, since Prefect is well otherwise: others need not wait for it.
    transient : bool, optional
        Whether it may be over in a moment; False if somebody has to change something.
    server_responded : bool, optional
        Whether a server is there, and only busy or in trouble.
    busy : bool, optional
        Whether it says that it is busy, and is to be asked later.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        submission_specific: bool = False,
        transient: bool = True,
        server_responded: bool = False,
        busy: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.submission_specific = submission_specific
        self.transient = transient
        self.server_responded = server_responded
        self.busy = busy


class FlowInputError(BlueskyPrefectError):
    """A flow was called with an argument that cannot be used."""


DO_NOT_RERUN = "DoNotRerun"
"""Name of the state that a flow returns, if it must not be started again by itself."""

NOT_TO_BE_RERUN = "Not to be started again"
"""Beginning of the message of a flow run that ended with `DoNotRerun` or a class derived from it."""


class DoNotRerun(BlueskyPrefectError):
    """To be raised by a flow that has failed for good: reconciliation does not start it again by itself.

    A class of one's own that derives from it says so, too. A flow without this package returns a state of this name
    instead: ``return Failed(name="DoNotRerun", message="...")``.
    """

    def __str__(self) -> str:
        """Return the message, with what Prefect's state message has to tell of any derived class."""
        text = super().__str__()
        return f"{NOT_TO_BE_RERUN}: {text}" if text else NOT_TO_BE_RERUN


class RunNotFound(BlueskyPrefectError):
    """Tiled holds no run under the given reference."""


class RunIncomplete(BlueskyPrefectError):
    """The run's stop document did not reach Tiled in time."""


class ExportFailed(BlueskyPrefectError):
    """A file of an export cannot be written."""


class ServiceUnavailable(BlueskyPrefectError):
    """A service on the internet (weather, cat facts) gave no usable answer in time."""


class TiledUnavailable(BlueskyPrefectError):
    """Tiled cannot be reached, or does not let us in."""


class StackError(BlueskyPrefectError):
    """The local stack cannot be started, found or stopped."""


class WaitError(BlueskyPrefectError):
    """Base of what waiting for flow runs may end with: `FlowFailed` and `FlowTimeout`."""


class FlowFailed(WaitError):
    """A flow run that was waited for failed, crashed or was cancelled, or will never be.

    Parameters
    ----------
    message : str
        What became of it, and why.
    run_uid : str
        The run.
    state : str
        Name of the state it ended in, such as ``Crashed``.
    flow_run_id : str, optional
        The flow run, if there was one.
    """

    def __init__(self, message: str, *, run_uid: str, state: str, flow_run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_uid = run_uid
        self.state = state
        self.flow_run_id = flow_run_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the attributes where it is copied or pickled, as between processes."""
        known = {"run_uid": self.run_uid, "state": self.state, "flow_run_id": self.flow_run_id}
        return partial(type(self), str(self), **known), ()


class FlowTimeout(WaitError):
    """Flow runs that were waited for have not ended in time; they go on."""
