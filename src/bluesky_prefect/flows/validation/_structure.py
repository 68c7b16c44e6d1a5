"""Checks of what Tiled promises of a detector's files."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from bluesky_prefect.core import error_line, one_line
from bluesky_prefect.flows.validation._checks import Check

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import FileStructure


def structure_checks(stream: str, what: str, structure: "FileStructure", *, fix: bool) -> Iterator[Check]:
    """Compare an array's structure with its files; with `fix`, have Tiled take over from them what differs.

    The verdict of bluesky-tiled-plugins is not taken as it is. To it, an array with a dimension for the frames of each
    event is broken if the file has none, which is how ophyd-async's detectors write.
    """
    try:
        found = structure.found()
    except Exception as error:  # noqa: BLE001 - libraries raise anything at a file that is not what it should be
        yield Check(stream, what, "broken", f"its files cannot be read as Tiled would: {error_line(error)}")
        return
    problem = _difference(structure.promised, found)
    if problem is None:
        yield Check(stream, what, detail=f"that of its files, {list(found.shape)}")
    elif fix:
        yield Check(stream, what, "warning", f"{problem[1]}; {_repaired(structure)}")
    else:
        yield Check(stream, what, problem[0], f"{problem[1]}; data-validation with fix=True has Tiled take this over")


def _repaired(structure: "FileStructure") -> str:
    try:
        return f"repaired in Tiled: {one_line('; '.join(structure.repair()))}"
    except Exception as error:  # noqa: BLE001 - a key that may not write, a server without this
        return f"not repaired in Tiled: {error_line(error)}"


def _difference(promised: Any, found: Any) -> tuple[Literal["warning", "broken"], str] | None:
    """Return how much it matters that files are not what was promised, and what it is; None if they are."""
    if found.data_type != promised.data_type:
        held, wanted = (structure.data_type.to_numpy_dtype() for structure in (found, promised))
        return "broken", f"its files hold {held}, not {wanted}"
    if tuple(found.shape) == tuple(promised.shape):
        return None
    held, wanted = math.prod(found.shape), math.prod(promised.shape)
    shapes = f"its files hold {list(found.shape)}, not {list(promised.shape)}"
    frame = tuple(found.shape[1:])
    if held < wanted or frame != tuple(promised.shape[len(promised.shape) - len(frame) :]):
        return "broken", shapes
    return None if held == wanted else ("warning", shapes)
