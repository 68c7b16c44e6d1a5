"""The IPython extension: ``%load_ext bluesky_prefect`` gives ``%flows`` and ``%wait_flows``, and tells of failures."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from bluesky_prefect.core import BlueskyPrefectError, get_settings
from bluesky_prefect.watch import PromptMessages

if TYPE_CHECKING:
    from bluesky_prefect.watch import AlreadyTold

# What '%flows 200' lists; a larger number is a scan id.
MOST = 200
_COUNT = 10


@magics_class
class FlowMagics(Magics):
    """``%flows`` and ``%wait_flows``, and a line before a prompt when something went wrong."""

    def __init__(self, shell: InteractiveShell, notices: PromptMessages) -> None:
        super().__init__(shell=shell)
        self._notices = notices
        self._began = time.time()
        self._told: AlreadyTold | None = None

    @magic_arguments()
    @argument(
        "number",
        nargs="?",
        type=int,
        help=f"up to {MOST}: list so many; above: the flow runs of that scan. -n and --scan say it outright",
    )
    @argument("-n", dest="count", metavar="COUNT", type=int, help=f"list so many (default: {_COUNT})")
    @argument("--scan", metavar="ID", type=int, help="only runs with this scan id")
    @argument("--beamline", metavar="NAME", help="only runs of this beamline; * for those of all")
    @argument("--failed", action="store_true", help="only what failed or crashed, and dead letters")
    @argument("--of", metavar="FILE", help="which run and flow run an exported file, or all in a folder, came of")
    @argument("--watch", action="store_true", help="keep the list up to date until Ctrl-C")
    @line_magic
    def flows(self, line: str) -> None:
        """Show the last flow runs that runs started, and what is waiting to be sent to Prefect."""
        given = parse_argstring(self.flows, line)
        count, scan_id = count_and_scan(given.number, given.count, given.scan)
        from bluesky_prefect.cli import _render_flows as render_flows
        from bluesky_prefect.cli import _render_origin as render_origin
        from bluesky_prefect.stack import prefect_absence
        from bluesky_prefect.watch import file_origin, look_up

        explain = partial(prefect_absence, get_settings())
        if given.of is not None:
            path = Path(given.of.strip("\"'"))  # IPython leaves them
            _without_traceback(lambda: render_origin.origin(file_origin(path, explain=explain)))
            return
        of = {"failed": given.failed, "scan_id": scan_id, "beamline": given.beamline}
        look_again = partial(look_up, count, **of, explain=explain)
        if given.watch:
            render_flows.watch(look_again, failed=given.failed)
        else:
            _without_traceback(lambda: render_flows.listing(look_again(), failed=given.failed))

    @magic_arguments()
    @argument("timeout", nargs="?", type=float, help="the longest wait, in seconds; no limit if not given")
    @line_magic
    def wait_flows(self, line: str) -> None:
        """Wait until everything sent to Prefect from here is done; Ctrl-C stops the waiting, not the flow runs.

        Of flow runs of this session that ended meanwhile, or before, it says so too, once.
        """
        timeout_s = parse_argstring(self.wait_flows, line).timeout
        from bluesky_prefect.cli import _render_flows as render_flows
        from bluesky_prefect.stack import prefect_absence
        from bluesky_prefect.watch import AlreadyTold, wait_for_flow_runs

        told = self._told = self._told or AlreadyTold(self._began)
        wait = partial(wait_for_flow_runs, timeout_s, told=told, explain=partial(prefect_absence, get_settings()))
        _without_traceback(lambda: self._notices.note_shown(render_flows.waiting(lambda report: wait(report=report))))

    def tell(self, *_: Any) -> None:
        """Print what is to be told; asks nobody, so that no prompt waits for it."""
        for line in self._notices.take():
            print(line)  # noqa: T201 - the prompt's own output

    def close(self) -> None:
        """Tell nothing more."""
        self._notices.close()


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Give an IPython the magics, and have it tell of failures before a prompt."""
    notices = PromptMessages(get_settings())
    magics = FlowMagics(shell, notices)
    shell.register_magics(magics)
    shell.events.register("post_run_cell", magics.tell)
    notices.start()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take it back, as far as IPython lets one: the magics stay."""
    magics: Any = shell.magics_manager.registry[FlowMagics.__name__]  # type: ignore[union-attr]  # made with the shell
    magics.close()
    shell.events.unregister("post_run_cell", magics.tell)


def count_and_scan(number: int | None, count: int | None, scan: int | None) -> tuple[int, int | None]:
    """Return how many flow runs are meant, and of which scan; raises `UsageError` if that is not clear."""
    if number is not None and (count is not None or scan is not None):
        raise UsageError("Give a number, or -n and --scan, not both.")
    if number is not None and number > MOST:
        scan = number
    elif number is not None:
        count = number
    if count is not None and not 0 < count <= MOST:
        raise UsageError(f"The number of flow runs must be 1 to {MOST}.")
    return (MOST if scan is not None else _COUNT) if count is None else count, scan


def _without_traceback(show: Any) -> None:
    """Do it; what goes wrong is a line, and Ctrl-C an end."""
    try:
        show()
    except BlueskyPrefectError as error:
        print(error)  # noqa: T201
    except KeyboardInterrupt:
        print("Interrupted.")  # noqa: T201
