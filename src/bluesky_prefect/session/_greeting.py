"""Three lines for somebody who has just opened the profile; a fourth, before them, says where the services are."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from bluesky_prefect.core import get_settings


def greet(names: Mapping[str, Any], tell: Callable[[str], None] = print) -> None:
    """Tell which devices there are, how to see what became of a scan, and how to export it again.

    Nothing where nobody sits at a prompt, as in a queue server.

    Parameters
    ----------
    names : mapping
        Those of the startup file, ``globals()``.
    tell : callable
        Is told each line.
    """
    from IPython import get_ipython

    if get_ipython() is None or _is_queue_server():
        return
    devices = {name: value for name, value in names.items() if _is_device(value)}
    motors = [name for name, value in devices.items() if hasattr(type(value), "position")]
    detectors = [name for name in devices if name not in motors]
    scan = f"; to begin: RE(count([{detectors[0]}], 3))" if detectors else ""
    tell(f"Devices: {', '.join([*motors, *detectors]) or 'none'}{scan}")
    tell("%flows shows what became of the last scans, and %wait_flows waits until all is done")
    tell(f"export(-1) exports the last scan again, to {get_settings().exports_path}")


def _is_queue_server() -> bool:
    """Tell whether this is the worker of a queue server; one that runs an IPython kernel looks like a prompt."""
    queue_server = sys.modules.get("bluesky_queueserver")  # imported long since, if it is
    return queue_server is not None and queue_server.is_re_worker_active()


def _is_device(value: Any) -> bool:
    """Tell whether something can be read as Bluesky does, without asking it: a client of Tiled would connect."""
    return hasattr(type(value), "read") and hasattr(type(value), "describe")
