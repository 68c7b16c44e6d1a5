"""The commands about flows that people write: their files, and their deployments."""

import keyword
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.core import ConfigurationError, StackError, file_of_list

_TEMPLATES = Path(__file__).with_name("templates")
_TEMPLATE = "my-analysis"


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
    files = {directory / f"{prefix}{function}.py": f"{prefix}my_analysis.py" for prefix in ("", "test_")}
    if there := [str(path) for path in files if path.exists()]:
        raise ConfigurationError(f"Nothing was written: {' and '.join(there)} exists. Choose another name.")
    directory.mkdir(parents=True, exist_ok=True)
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


def deploy_file(where: str, *, work_pool: str | None, name: str, move: bool, add: bool) -> None:
    """Deploy a flow of a file, and show its line for the list of workflows."""
    from bluesky_prefect.stack import prefect_service, use_services

    path = Path(where.partition(":")[0]).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise ConfigurationError(f"There is no file {path.absolute()}.")
    settings = use_services()
    if (prefect := prefect_service()).problem:
        raise StackError(f"Prefect is not there ({prefect.cause}): {prefect.remedy}.")
    # It imports Prefect, which reads the environment then.
    import anyio

    from bluesky_prefect.prefect_api import deploy, flow_in_file, refuse_to_move, unfilled_parameters

    pool = work_pool or settings.work_pool
    with terminal.progress("Deploying") as report:
        flow, entrypoint = flow_in_file(where)
        if not move:
            anyio.run(refuse_to_move, [f"{flow.name}/{name}"], pool)
        deployed = anyio.run(partial(deploy, flow, name, pool, entrypoint=entrypoint))
        report(f"Deployed {deployed}. Each flow run reads {path}: what you change there counts from the next one on.")
        if unfilled := unfilled_parameters(flow):
            report(
                f"A run does not fill {', '.join(unfilled)}: give a default, or parameters= in the list of workflows."
            )
    _list(settings.workflows, deployed, add=add)


def _list(listed_at: str | None, deployment: str, *, add: bool) -> None:
    """Put a deployment on the list of workflows, or show the line that does."""
    from bluesky_prefect.stack import add_to_list, line_for

    if listed_at and file_of_list(listed_at):
        line = line_for(listed_at, deployment)
        if add:
            how = "is now" if add_to_list(listed_at, deployment) else "was already"
            terminal.note(f"It {how} on the list, and starts when the next run ends: {listed_at}")
        else:
            terminal.note(f"To start it when a run ends, say --add, or add this line to {listed_at}:")
        terminal.show(terminal.out(), line)
        return
    where = f"the list {listed_at}" if listed_at else "the list that your sessions subscribe"
    line = f'Workflow("{deployment}")'
    if add:
        raise ConfigurationError(f"It was deployed, but {where} is not a file that --add could write to: add {line}.")
    terminal.note(f"To start it when a run ends, add this to {where}, and start the sessions again:")
    terminal.show(terminal.out(), line)
