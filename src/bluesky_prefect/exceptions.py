"""The errors this package raises, each with a message that names the thing, the cause and the mend."""


class BlueskyPrefectError(Exception):
    """Base of every error raised by bluesky-prefect."""


class ConfigurationError(BlueskyPrefectError):
    """A setting, a workflow or an argument cannot work as given."""


class OutboxError(BlueskyPrefectError):
    """The outbox cannot be opened, read or written."""


class SubmissionRefused(BlueskyPrefectError):
    """Prefect will never accept this submission as it is: it becomes a dead letter."""


class DeploymentMissing(BlueskyPrefectError):
    """Prefect does not know the deployment (yet)."""


class PrefectUnavailable(BlueskyPrefectError):
    """Prefect cannot be reached or cannot answer now; asking again later can succeed."""


class FlowInputError(BlueskyPrefectError):
    """A flow was called with an argument that cannot be used."""


class RunNotFound(BlueskyPrefectError):
    """Tiled holds no run under the given reference."""


class RunIncomplete(BlueskyPrefectError):
    """The run's stop document did not reach Tiled in time."""


class StackError(BlueskyPrefectError):
    """The local stack cannot be started, found or stopped."""
