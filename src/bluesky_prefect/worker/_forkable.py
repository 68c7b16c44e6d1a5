"""Reasons for which a flow run needs an interpreter of its own."""

from collections.abc import Mapping

from bluesky_prefect.worker._job_variables import WarmJobConfiguration

# What an interpreter, or a library that flow runs find loaded, reads when it starts and never again.
_READ_AT_START = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "NUMBA_", "MALLOC_", "MPL")
# What a child takes over after all.
_TAKEN_OVER = {"PYTHONPATH", "PYTHONSAFEPATH"}
_INSTALLS = "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES"


def why_not_forkable(configuration: WarmJobConfiguration, environment: Mapping[str, str]) -> str | None:
    """Return why a flow run cannot be forked, or None if it can.

    Parameters
    ----------
    configuration : WarmJobConfiguration
        The flow run's job.
    environment : mapping
        What the fork server was started with.
    """
    if configuration.has_own_command:
        return "the job has a command of its own"
    own = configuration.env
    if (own.get(_INSTALLS) or "").lower() in ("1", "true", "yes", "on", "t", "y"):
        return f"{_INSTALLS} is set"
    for name in sorted({*own, *environment}):
        if name.startswith(_READ_AT_START) and name not in _TAKEN_OVER and own.get(name) != environment.get(name):
            return f"{name} is read when an interpreter starts"
    return None
