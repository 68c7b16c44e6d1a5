"""The house stands on public names: private ones of others are in marked files."""

import ast
from pathlib import Path

import bluesky_prefect

ROOT = Path(bluesky_prefect.__file__).parent
OTHERS = ("prefect", "tiled", "bluesky", "ophyd", "event_model", "bluesky_tiled_plugins", "IPython")
# Each private name there has its reason beside it; workarounds go when upstream has a remedy.
MARKED = ("worker/_prefect_internals.py", "stack/workarounds/")


def is_of_others(name):
    return name.partition(".")[0] in OTHERS


def is_private(name):
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def names(node):
    """Return the names of others that a node imports, or spells out as a module to import."""
    match node:
        case ast.ImportFrom(module=str(module), names=imported):
            return [f"{module}.{one.name}" for one in imported]
        case ast.Import(names=imported):
            return [one.name for one in imported]
        case ast.Constant(value=str(text)) if text.replace(".", "").replace("_", "").isalnum():
            return [text]
    return []


def test_private_names_of_others_are_in_marked_files_only():
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in ROOT.rglob("*.py")
        if not str(file.relative_to(ROOT)).startswith(MARKED)
        for node in ast.walk(ast.parse(file.read_text()))
        for name in names(node)
        if is_of_others(name) and is_private(name)
    ]
    assert found == []
