"""All that is looked at, side by side, so that one server that does not answer holds up nothing else."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from typing import Any

from bluesky_prefect.cli.check._finding import Finding, Findings
from bluesky_prefect.cli.check._machine import look_at_machine
from bluesky_prefect.cli.check._places import Places
from bluesky_prefect.cli.check._prefect import look_at_list, look_at_prefect
from bluesky_prefect.cli.check._servers import look_at_clocks
from bluesky_prefect.cli.check._tiled import look_at_tiled
from bluesky_prefect.cli.check._waiting import look_at_journals, look_at_outbox
from bluesky_prefect.core import error_line, on_daemon_thread

# All of it together. A server that takes longer is none that scans can count on.
LIMIT_S = 15.0
_TOLD_AFTER_S = 2.0
# Seconds of work, which are no server's fault.
_IMPORTS = ("prefect.client.orchestration", "tiled.client")


def _look_at_clocks(places: Places) -> Findings:
    return look_at_clocks(places.prefect, places.tiled)


_LOOKS: dict[str, Callable[[Places], Findings]] = {
    "machine": look_at_machine,
    "workflows": look_at_list,
    "prefect": look_at_prefect,
    "tiled": look_at_tiled,
    "clocks": _look_at_clocks,
    "outbox": look_at_outbox,
    "journals": look_at_journals,
}


def look(places: Places, report: Callable[[str], None], *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Look at everything at once, and return what was found, by subject; nothing is changed by it.

    Parameters
    ----------
    report : callable
        Told in one line what is waited for, if that takes more than two seconds.
    limit_s : float, optional
        How long it may take, in seconds, once Prefect's and Tiled's clients are imported.
    """
    imports = on_daemon_thread(_import_clients)
    if not _wait(imports, _TOLD_AFTER_S):
        report("Importing the clients of Prefect and Tiled")
    imports.result()
    begun = {subject: on_daemon_thread(call, places) for subject, call in _LOOKS.items()}
    deadline, told_at = time.monotonic() + limit_s, time.monotonic() + _TOLD_AFTER_S
    for future in begun.values():
        _wait(future, told_at - time.monotonic())
    if slow := [subject for subject, future in begun.items() if not future.done()]:
        report(f"Waiting for: {', '.join(slow)}")
    for future in begun.values():
        _wait(future, deadline - time.monotonic())
    return [finding for subject, future in begun.items() for finding in _outcome(subject, future, limit_s)]


def _outcome(subject: str, future: "Future[Findings]", limit_s: float) -> Findings:
    findings = Findings(subject)
    if not future.done():
        findings.problem("answer", f"no answer in {limit_s:g} s", "look at the server, its log and the network")
        return findings
    try:
        return future.result()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        found = f"this needs {package}, which is not installed here"
        findings.problem("answer", found, 'pip install "bluesky-prefect[flows]"')
    except Exception as error:  # noqa: BLE001 - one subject's trouble hides no other
        findings.problem("answer", error_line(error), "its log says more, or: report this")
    return findings


def _wait(future: "Future[Any]", timeout_s: float) -> bool:
    """Wait until a future is done, or that long; return whether it is."""
    try:
        future.exception(max(timeout_s, 0))
    except TimeoutError:
        return False
    return True


def _import_clients() -> None:
    for module in _IMPORTS:
        try:
            import_module(module)
        except ModuleNotFoundError:  # told of where it is needed
            continue
