"""Every private name of Prefect that this package uses, with its reason and what happens without it."""

import prefect

from bluesky_prefect.core import ConfigurationError

# Minor releases of Prefect with which the tests of this worker ran.
TESTED = ("3.8", "3.9")

# The engine imports these for each flow run: milliseconds, if they are not there already. The fork server leaves out a
# module that Prefect has renamed.
ENGINE_MODULES = ["prefect._internal.control_listener", "prefect._internal.metrics"]


def require_tested_prefect(version: str = prefect.__version__) -> None:
    """Raise a `ConfigurationError` for a Prefect with which this worker was not tested."""
    if ".".join(version.split(".")[:2]) not in TESTED:
        raise ConfigurationError(
            f"The warm-process worker is tested with Prefect {' and '.join(TESTED)}, and this is {version}. "
            "Install one of those, or use a work pool of type 'process'."
        )


def engine_environment(entrypoint: str | None) -> dict[str, str]:
    """Return the variables that tell Prefect's engine about its worker, and where the flow is if that is known.

    One of them leaves cancellations to the worker. Without it, both the engine and the worker set the state of a
    cancelled flow run and run its hooks. Without an entrypoint, the engine reads the deployment once more.
    """
    environment = {"PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false"}
    if entrypoint is not None:
        environment["PREFECT__FLOW_ENTRYPOINT"] = entrypoint
    return environment


def announce_cancellation() -> None:
    """Tell the engine in this process that the next SIGTERM cancels its flow run.

    Without it, the engine reports a crash, and a moment later the worker sets the flow run to cancelled.
    """
    try:
        from prefect._internal.control_listener import _set_intent
    except ImportError:
        return
    _set_intent("cancel")
