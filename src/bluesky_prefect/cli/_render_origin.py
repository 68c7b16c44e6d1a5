"""Rendering of where exported files came from."""

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import as_json, one_line

if TYPE_CHECKING:
    from bluesky_prefect.watch import FileOrigin

_LONG = 2_000


def origin(origin: "FileOrigin") -> None:
    """Show it for people."""
    out, width = terminal.out(), max(map(len, origin.files), default=0)
    for name, state in origin.files.items():
        terminal.show(out, f"{one_line(name):<{width}}  {state}")
    terminal.show(out, "")
    for name, text in _lines(origin).items():
        terminal.show(out, f"{name + ':':<12}{one_line(text, _LONG)}")
    if origin.problem:
        terminal.show(out, origin.problem)


def origin_as_json(origin: "FileOrigin") -> None:
    """Show it for programs."""
    flow_run = origin.flow_run
    terminal.dump(
        {
            **origin.provenance.model_dump(mode="json"),
            "states": origin.files,
            "flow_run": flow_run and {**dataclasses.asdict(flow_run), "created": terminal.iso(flow_run.created)},
            "problem": origin.problem,
        }
    )


def _lines(origin: "FileOrigin") -> dict[str, str]:
    known, maker = origin.provenance, origin.provenance.made_by
    lines = {
        "Run": f"{known.run_uid}, scan {'none' if known.scan_id is None else known.scan_id} ({known.plan_name})",
        "Written": f"{_local(known.created)} by {known.software.get('name')} {known.software.get('version')}",
    }
    if maker is None:
        return {**lines, "Flow run": "none"}
    now = origin.flow_run
    state = f", {now.state}" if now else "" if origin.problem else ", which Prefect does not know (any more)"
    return {
        **lines,
        "Flow run": f"{maker.flow_run_name} ({maker.flow_run_id}){state}",
        **({"Page": now.url} if now and now.url else {}),
        "Deployment": maker.deployment or "none, called by hand",
        "Parameters": as_json(maker.parameters),
    }


def _local(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return moment
