"""The command that is the courier, and those about what it could not deliver."""

import os
import signal
import threading
import time
from typing import Annotated, Any

import typer

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._options import AsJson, StateDirectory, settings_from
from bluesky_prefect.cli._service_log import log_to_standard_error
from bluesky_prefect.core import ConfigurationError, counted, get_settings

app = typer.Typer(
    help="Show and repair the journals of runs that are on their way to Tiled, or that Tiled refuses.\n\n"
    "Each run that is recorded has a journal on disk until Tiled has the run. Waiting runs are delivered "
    "automatically. A run that Tiled refuses is set aside, until you have fixed the cause and retry it, or discard it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_MOST = 50
_NAME_HELP = "The run's uid, or the beginning of it."


def courier(state_directory: StateDirectory = None) -> None:
    """Take what waits on this machine to Tiled and Prefect, until it is stopped.

    Runs that sessions record go from their journals to Tiled, also while they go on; then their submissions go from
    the outbox to Prefect. The local stack and sessions start a courier by themselves. This command is for a service
    manager. There is one for each state directory. Stopped or killed it loses nothing.
    """
    if state_directory is not None:
        settings_from(state_directory=state_directory)
        os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(state_directory.absolute())
    from bluesky_prefect.stack import hold_ports, use_services

    settings = use_services()
    hold_ports(settings)
    log_to_standard_error(settings, others=("httpx", "tiled", "bluesky_tiled_plugins", "prefect"))
    finish = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: finish.set())
    # Prefect and Tiled read the environment when they are imported.
    from bluesky_prefect.courier import run_courier
    from bluesky_prefect.watch import FailureLog

    # Sessions read there what they would else have to ask Prefect for.
    threading.Thread(target=FailureLog(settings).keep, args=[finish], name="failure-log", daemon=True).start()
    run_courier(settings, _raw_catalog, finish)


def _raw_catalog() -> Any:
    """Connect to Tiled: while the settings name none, to that of a local stack that has been started since."""
    from bluesky_prefect.stack import use_services
    from bluesky_prefect.tiled_api import Catalog

    settings = get_settings()
    if settings.tiled_uri is None and settings.tiled_profile is None:
        settings = use_services()
    try:
        return Catalog.connect(settings).raw_for_writing()
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'the courier needs {error.name}, which is not installed here: pip install "bluesky-prefect[courier]"'
        ) from error


@app.command("list")
def list_journals(as_json: AsJson = False, state_directory: StateDirectory = None) -> None:
    """List the runs that are on their way to Tiled, and those that it refuses, newest first."""
    from bluesky_prefect.courier import running_courier
    from bluesky_prefect.journal import JournalDirectory

    settings = settings_from(state_directory=state_directory)
    directory = JournalDirectory(settings.journals_path)
    waiting, refused = directory.waiting(), directory.refused()
    at_work = running_courier(settings)
    if as_json:
        terminal.dump(
            {
                "courier": at_work and at_work.process,
                "waiting": [{"run": one.run_uid, "path": str(one.path)} for one in waiting],
                "refused": [{"run": one.run_uid, "path": str(one.path), "reason": one.reason} for one in refused],
            }
        )
        return
    out = terminal.out()
    who = f"The courier ({at_work.process}) delivers them." if at_work else "No courier is running."
    terminal.show(out, f"On their way to Tiled: {counted(len(waiting), 'run')}. {who}")
    for one in waiting[:_MOST]:
        terminal.show(out, f"  {one.run_uid}  last written to {time.time() - one.written:.0f} s ago")
    if len(waiting) > _MOST:
        terminal.show(out, f"  and {len(waiting) - _MOST} more")
    if refused:
        terminal.show(out, f"\nRefused by Tiled: {counted(len(refused), 'run')}")
    for one in refused:
        terminal.show(out, f"  {one.run_uid}  {one.path}\n      {one.reason}")


@app.command()
def retry(
    name: Annotated[str | None, typer.Argument(help=f"{_NAME_HELP} Default: all of them.", show_default=False)] = None,
    state_directory: StateDirectory = None,
) -> None:
    """Have the courier try again what Tiled has refused."""
    retried = _directory(state_directory).retry(name)
    terminal.note(f"{counted(len(retried), 'run')} will be tried again.")


@app.command()
def discard(
    name: Annotated[str, typer.Argument(help=_NAME_HELP)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Delete the journal of a run that Tiled has refused: this loses its documents.

    It also releases the workflows of the run that are waiting in the outbox, which then find no run: discard them
    first, with 'bluesky-prefect outbox discard'.
    """
    directory = _directory(state_directory)
    uid = directory.find(name)
    if not yes:
        typer.confirm(f"Delete the documents of run {uid} permanently?", abort=True, err=True)
    terminal.note(f"The journal of run {directory.discard(uid)} is deleted.")


def _directory(state_directory: Any) -> Any:
    from bluesky_prefect.journal import JournalDirectory

    return JournalDirectory(settings_from(state_directory=state_directory).journals_path)
