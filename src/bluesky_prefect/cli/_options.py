"""Options that several commands take."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bluesky_prefect.core import Settings, checked_settings


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
        help="Where the beamline's list of workflows is, as module:attribute or /path/to/file.py:attribute. "
        "Default: BLUESKY_PREFECT_WORKFLOWS.",
        show_default=False,
    ),
]
BeamlineName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Short name of the beamline, where several use this Prefect and this Tiled. "
        "Default: BLUESKY_PREFECT_BEAMLINE.",
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


Readable = Annotated[
    list[str] | None,
    typer.Option(
        help="A directory of detectors' files that Tiled may read; a whole path. May be given several times, and is "
        "remembered for the next start, as are those of earlier starts; 'none' forgets them. "
        "Default: BLUESKY_PREFECT_READABLE.",
        show_default=False,
    ),
]


def settings_from(**options: Any) -> Settings:
    """Return the settings, with the options that were given (are not None) in place of the environment's.

    Raises `ConfigurationError` if one cannot be used.
    """
    return checked_settings(**{name: value for name, value in options.items() if value is not None})


def services_of(state_directory: Path | None, workflows: str | None = None) -> Settings:
    """Point this process to its servers, before Prefect and Tiled are imported, and return the settings.

    They are those that the environment names, or those of the running local stack. Where a state directory is given
    that has had a local stack, they are that stack's: the environment may name another one's.
    """
    from bluesky_prefect.stack import stack_addresses, use_services

    given = settings_from(state_directory=state_directory, workflows=workflows)
    os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(given.state_directory.absolute())
    if state_directory is not None:
        os.environ.update(stack_addresses(given))
    if workflows:
        os.environ["BLUESKY_PREFECT_WORKFLOWS"] = workflows
    return use_services()


def state_option(state_directory: Path | None) -> str:
    """Return what has to be added to a command that is shown, so that it is about the same state directory."""
    return "" if state_directory is None else f" --state-directory {shlex.quote(str(state_directory))}"
