"""The command that shows the flow runs of runs."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bluesky_prefect.cli import _render_flows as render_flows
from bluesky_prefect.cli import _render_origin as render_origin
from bluesky_prefect.cli._options import AsJson, StateDirectory, services_of, state_option

# What 'flows' lists at most.
MOST = 200


def flows(
    count: Annotated[int, typer.Option("-n", min=1, max=MOST, help="How many to list.")] = 10,
    scan: Annotated[
        int | None, typer.Option(metavar="ID", help="Only runs with this scan id.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed or crashed, and dead letters.")] = False,
    beamline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only runs of this beamline; '*' for those of all. Default: BLUESKY_PREFECT_BEAMLINE, or all.",
            show_default=False,
        ),
    ] = None,
    of: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Say which run and flow run an exported file (or all in its folder) came of, and whether it has been "
            "changed since.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the list up to date until Ctrl-C.")] = False,
    as_json: AsJson = False,
    state_directory: StateDirectory = None,
) -> None:
    """Show the last flow runs that runs started, and what is waiting in this machine's outbox.

    Ends with 1 if Prefect does not answer or the outbox cannot be read, or if there is no such beamline; with --of, if
    a file has been changed.
    """
    settings = services_of(state_directory)
    # Prefect reads the environment when it is imported.
    from bluesky_prefect.stack import prefect_absence
    from bluesky_prefect.watch import file_origin, look_up

    explain = partial(prefect_absence, settings, options=state_option(state_directory))
    if of is not None:
        origin = file_origin(of, settings=settings, explain=explain)
        (render_origin.origin_as_json if as_json else render_origin.origin)(origin)
        raise typer.Exit(0 if origin.unchanged else 1)
    look_again = partial(
        look_up, count, failed=failed, scan_id=scan, beamline=beamline, settings=settings, explain=explain
    )
    if watch:
        render_flows.watch(look_again, failed=failed)
        return
    listing = look_again()
    if as_json:
        render_flows.listing_as_json(listing)
    else:
        render_flows.listing(listing, failed=failed)
    raise typer.Exit(1 if listing.problems else 0)
