"""The command that writes a flow to begin with."""

import builtins
import keyword
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import ConfigurationError

_TEMPLATES = Path(__file__).with_name("templates")
_TEMPLATE = "my-analysis"
# What the template itself uses.
_TAKEN = {"analyse", "conclude", "plain_flow", "read_run", "task", "write_result"}


def new(
    name: Annotated[str, typer.Argument(help="Name of the flow, such as my-analysis.")],
    directory: Annotated[Path, typer.Option(help="Where the files go.")] = Path(),
) -> None:
    """Write a flow of your own, and a test of it, to begin with.

    The flow reads a run from Tiled and writes a result beside it. Files that are there are never overwritten.
    """
    function = name.replace("-", "_")
    if not function.isidentifier() or keyword.iskeyword(function) or not name.isascii():
        raise ConfigurationError(f"{name!r} cannot be the name of a flow: use letters, digits and '-', as my-analysis.")
    directory = directory.expanduser()
    if function in _TAKEN or hasattr(builtins, function) or _is_module(function):
        raise ConfigurationError(f"{name!r} is the name of a module, or of a part of the flow. Choose another one.")
    files = {directory / f"{prefix}{function}.py": f"{prefix}my_analysis.py" for prefix in ("", "test_")}
    if there := [str(path) for path in files if path.exists()]:
        raise ConfigurationError(
            f"Nothing was written, so as not to overwrite {' and '.join(there)}. Choose another name, or a --directory."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be made ({error.strerror}). Choose another one.") from error
    for path, template in files.items():
        text = (_TEMPLATES / template).read_text()
        with path.open("x") as file:
            file.write(text.replace(_TEMPLATE, name.replace("_", "-")).replace("my_analysis", function))
        terminal.note(f"Wrote {path}")
    [flow, test] = map(shlex.quote, map(str, files))
    terminal.note(f"Test it:    python -m pytest {test}")
    terminal.note(f"At the prompt: %run -i {flow}, then {function}(-1)")
    terminal.note("Have it started when a run ends:")
    terminal.show(terminal.out(), f"bluesky-prefect deploy {flow}:{function} --add")


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # __main__ has none
        return True
