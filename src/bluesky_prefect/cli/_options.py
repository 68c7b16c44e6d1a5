"""Options that several commands take."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from bluesky_prefect.core import ConfigurationError, Settings


def _port(server: str, default: int) -> Any:
    variable = f"BLUESKY_PREFECT_{server.upper()}_PORT"
    text = f"Port of the {server} server; 0 takes any free one. Default: {variable}, or {default}."
    return typer.Option(min=0, max=65535, help=text, show_default=False)


StateDirectory = Annotated[
    Path | None,
    typer.Option(
        help="Where the stack and the outbox keep their files. "
        "Default: BLUESKY_PREFECT_STATE_DIRECTORY, or the user's state directory.",
        show_default=False,
    ),
]
TiledPort = Annotated[int | None, _port("Tiled", 8000)]
PrefectPort = Annotated[int | None, _port("Prefect", 4200)]
Workflows = Annotated[
    str | None,
    typer.Option(
        help="Where the beamline's list of workflows is, as module:attribute or /path/to/file.py:attribute: what a run "
        "should have had. "
        "Default: BLUESKY_PREFECT_WORKFLOWS.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
WorkerType = Annotated[
    Literal["warm-process", "process"] | None,
    typer.Option(
        help="Type of the worker: 'warm-process' forks flow runs, which starts them within a second; 'process' is "
        "Prefect's own. Default: BLUESKY_PREFECT_WORKER_TYPE, or warm-process.",
        show_default=False,
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Database of the Prefect server: postgresql+asyncpg://user@host:5432/database, or sqlite. "
        "Remembered for the next start. A password is better kept in BLUESKY_PREFECT_PREFECT_DATABASE_URL or "
        "~/.pgpass: others can see the command line. Default: the last one used; at first sqlite.",
        show_default=False,
    ),
]


def settings_from(**options: Any) -> Settings:
    """Return the settings, with the options that were given (are not None) in place of the environment's.

    Raises `ConfigurationError` if one cannot be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        # Not the error's own text: it would show the value, which may be a secret.
        causes = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigurationError(f"A setting cannot be used: {causes}. See the BLUESKY_PREFECT_* variables.") from error


def state_option(state_directory: Path | None) -> str:
    """Return what has to be added to a command that is shown, so that it is about the same state directory."""
    return "" if state_directory is None else f" --state-directory {shlex.quote(str(state_directory))}"
