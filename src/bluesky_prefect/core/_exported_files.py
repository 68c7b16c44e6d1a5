"""The artifact that lists exported files, for people to see and plans to use."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bluesky_prefect.core._markdown import from_cell

# The artifact's key.
EXPORTED_FILES = "exported-files"


def exported_files_table(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the rows of such an artifact: paths, and sizes in bytes."""
    return [{"file": str(path), "bytes": path.stat().st_size} for path in files]


def exported_paths(data: Any) -> list[str]:
    """Return the paths that stand in such an artifact; none, if it is somebody else's of the same name."""
    try:
        rows = json.loads(data) if isinstance(data, str) else data
    except ValueError:
        return []
    if not isinstance(rows, list):
        return []
    return [from_cell(row["file"]) for row in rows if isinstance(row, dict) and isinstance(row.get("file"), str)]
