"""Provenance of the files of an export, in words for people and for programs."""

import datetime
from typing import TYPE_CHECKING

from bluesky_prefect._version import __version__
from bluesky_prefect.core import MadeBy, Provenance, as_json, one_line

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api import RunData


def provenance_of(run: "RunData", made_by: MadeBy | None) -> Provenance:
    """Return what makes the files of a run now; they are to be noted when they are there."""
    scan_id = run.start.get("scan_id")
    return Provenance(
        run_uid=run.uid,
        scan_id=scan_id if type(scan_id) is int else None,
        plan_name=one_line(run.start.get("plan_name", ""), 200),
        made_by=made_by,
        software={"name": "bluesky-prefect", "version": __version__},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def provenance_lines(provenance: Provenance) -> dict[str, str]:
    """Return the lines of a summary, by their names."""
    made_by = provenance.made_by
    if made_by is None:
        return {"flow run": "none"}
    return {
        "flow run": f"{made_by.flow_run_name} ({made_by.flow_run_id})",
        "deployment": made_by.deployment or "none, called by hand",
        "parameters": as_json(made_by.parameters),
    }
