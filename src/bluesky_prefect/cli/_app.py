"""The commands: each parses, calls and renders."""

import os
from typing import Annotated

import typer

from bluesky_prefect import __version__
from bluesky_prefect.cli import _courier as courier
from bluesky_prefect.cli import _deploy as deploy
from bluesky_prefect.cli import _flows as flows
from bluesky_prefect.cli import _listen as listen
from bluesky_prefect.cli import _new as new
from bluesky_prefect.cli import _outbox as outbox
from bluesky_prefect.cli import _render as render
from bluesky_prefect.cli import _repair as repair
from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._options import (
    AsJson,
    DatabaseUrl,
    PrefectPort,
    Readable,
    StateDirectory,
    TiledPort,
    WorkerType,
    settings_from,
    state_option,
)
from bluesky_prefect.cli.check import check
from bluesky_prefect.core import BlueskyPrefectError, StackError

app = typer.Typer(
    name="bluesky-prefect",
    help="Start Prefect flows from Bluesky runs.\n\n"
    "New here? 'bluesky-prefect demo' shows all of it on simulated devices: it starts the local stack (Tiled "
    "server, Prefect server, worker, courier), takes a few scans, and lists the flow runs that they started.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(outbox.app, name="outbox")
app.add_typer(courier.app, name="journal")
app.add_typer(listen.app, name="listen")


def run() -> int:
    """Run the command line and return the exit code."""
    try:
        return app(standalone_mode=True) or 0
    except BlueskyPrefectError as error:
        terminal.error(str(error))
        return 1
    except KeyboardInterrupt:
        terminal.error("Interrupted.")
        return 130


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bluesky-prefect {__version__}")
        raise typer.Exit


app.command()(check)
app.command()(flows.flows)
app.command()(courier.courier)
app.command()(new.new)
app.command()(deploy.deploy)
app.command()(repair.reconcile)
# A negative index is no option.
app.command(context_settings={"ignore_unknown_options": True})(repair.submit)


@app.callback()
def bluesky_prefect(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hold what comes before the command."""


@app.command()
def up(
    tiled_port: TiledPort = None,
    prefect_port: PrefectPort = None,
    worker_type: WorkerType = None,
    database_url: DatabaseUrl = None,
    readable: Readable = None,
    state_directory: StateDirectory = None,
) -> None:
    """Start the local stack: Tiled server, Prefect server, worker and courier.

    They run in the background on this machine only (127.0.0.1), and keep running after this terminal is closed.
    Parts that are running are left as they are; it says which settings they were not started with. Ends with 1 if one
    of them uses another port than the one given here, or Tiled reads other directories.
    """
    from bluesky_prefect.stack import LocalStack, reads, sign_in_url

    settings = settings_from(
        tiled_port=tiled_port,
        prefect_port=prefect_port,
        prefect_database_url=database_url,
        worker_type=worker_type,
        readable=readable or None,
        state_directory=state_directory,
    )
    with terminal.progress("Starting the local stack") as report:
        info = LocalStack(settings).up(report)
    render.stack_info(info, sign_in=sign_in_url(info), options=state_option(state_directory))
    asked = ((tiled_port, info.tiled_uri), (prefect_port, info.prefect_ui_url))
    moved = any(port and not url.endswith(f":{port}") for port, url in asked)
    raise typer.Exit(1 if moved or (readable and not reads(info, readable)) else 0)


@app.command()
def down(
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds that running flow runs get to finish before they are stopped.")
    ] = 15,
    state_directory: StateDirectory = None,
) -> None:
    """Stop the local stack.

    Data, flow runs and the outbox are kept; flow runs that are waiting for a worker start after the next 'up'.
    """
    from bluesky_prefect.stack import LocalStack

    with terminal.progress("Stopping the local stack") as report:
        LocalStack(settings_from(state_directory=state_directory)).down(report, flow_runs_timeout_s=wait)


@app.command()
def status(
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=0, max=200, help="How many flow runs to list.")] = 10,
    state_directory: StateDirectory = None,
) -> None:
    """Show the parts of the local stack, the outbox, and the last flow runs.

    Where the settings name servers of your own, and no local stack runs, it shows those: where they are, what names
    them, and whether they answer. Ends with 0 if every part is up, with 1 otherwise.
    """
    from bluesky_prefect.stack import LocalStack, sign_in_url

    local = LocalStack(settings_from(state_directory=state_directory))
    found = local.status(flow_runs=limit)
    if as_json:
        render.as_json(found)
    else:
        info = local.find() if found.all_up else None
        render.status(found, sign_in=sign_in_url(info) if info else "")
    raise typer.Exit(0 if found.all_up else 1)


@app.command()
def ui(
    tiled: Annotated[bool, typer.Option("--tiled", help="To Tiled's UI, which shows the data.")] = False,
    state_directory: StateDirectory = None,
) -> None:
    """Print a link that signs a browser in to the local stack's Prefect UI.

    It works once, within ten minutes. The browser stays signed in.
    """
    from bluesky_prefect.stack import LocalStack, sign_in_url, tiled_sign_in_url

    info = LocalStack(settings_from(state_directory=state_directory)).find()
    if info is None:
        raise StackError(f"The local stack is not up. Start it with: bluesky-prefect up{state_option(state_directory)}")
    terminal.show(terminal.out(), tiled_sign_in_url(info) if tiled else sign_in_url(info))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the local stack up at the end.")] = False,
    plans: Annotated[
        int | None, typer.Option(min=1, help="Take only this many plans. Default: all.", show_default=False)
    ] = None,
    tiled_port: TiledPort = None,
    prefect_port: PrefectPort = None,
    worker_type: WorkerType = None,
    state_directory: StateDirectory = None,
) -> None:
    """Take simulated scans and show the flow runs that they start.

    Starts the local stack, takes several kinds of scans with a real RunEngine on simulated devices, waits for
    the flow runs, checks the exported files against Tiled, and takes the stack down again. A stack that runs
    already is used and left up. Needs no internet. Ends with 0 if everything is as it should be.
    """
    from bluesky_prefect.stack import LocalStack, sign_in_url

    settings = settings_from(
        tiled_port=tiled_port,
        prefect_port=prefect_port,
        worker_type=worker_type,
        state_directory=state_directory,
    )
    local = LocalStack(settings)
    running = local.find() is not None
    with terminal.progress("Starting the local stack") as report:
        # Who has not asked for a port takes what is there: a newcomer's 8000 is often in use.
        info = local.up(report, any_port=not {"tiled_port", "prefect_port"} & settings.model_fields_set)
    try:
        # Before Prefect is imported: it reads its settings then, once.
        os.environ.update(info.environment())
        from bluesky_prefect.cli._demo import Demo

        with terminal.progress("Taking scans and waiting for their flow runs") as report:
            result = Demo(info, settings, plans=plans).run(report)
        render.demo(result)
    finally:
        if not keep and not running:
            with terminal.progress("Stopping the local stack") as report:
                local.down(report)
                report(f"To look at the flow runs, start it again: bluesky-prefect up{state_option(state_directory)}")
    if keep or running:
        render.stack_info(info, sign_in=sign_in_url(info), options=state_option(state_directory))
    raise typer.Exit(1 if result.problems else 0)


@app.command()
def make_catalog() -> None:
    """Make the catalog of Bluesky runs in Tiled, or give the one that is there the spec that it lacks.

    It is the one that BLUESKY_PREFECT_RAW_CONTAINER names, on the server that BLUESKY_PREFECT_TILED_URI names;
    TILED_API_KEY has to allow that. The local stack has it already.
    """
    from bluesky_prefect.tiled_api import Catalog

    settings = settings_from()
    with terminal.progress("Looking at Tiled"), Catalog.connect(settings) as catalog:
        changed = catalog.make_raw()
    terminal.note(f"The catalog {settings.raw_container!r} {'is ready now' if changed else 'was ready already'}.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ipython(
    context: typer.Context,
    tiled_port: TiledPort = None,
    prefect_port: PrefectPort = None,
    worker_type: WorkerType = None,
    state_directory: StateDirectory = None,
) -> None:
    """Open IPython with the beamline profile, on the local stack (started if need be).

    Further arguments are IPython's own. The stack stays up afterwards.
    """
    from bluesky_prefect.session import open_ipython
    from bluesky_prefect.stack import LocalStack

    settings = settings_from(
        tiled_port=tiled_port,
        prefect_port=prefect_port,
        worker_type=worker_type,
        state_directory=state_directory,
    )
    with terminal.progress("Starting the local stack") as report:
        LocalStack(settings).up(report)
    open_ipython(context.args, settings=settings, report=report)
