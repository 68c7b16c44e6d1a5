"""The file of workflows that people edit, and that 'bluesky-prefect deploy --add' adds to."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from bluesky_prefect.core import ConfigurationError, load_workflows, whole_file, write_first

_CONTENT = '''\
"""The workflows that a run starts. Edit it as you like: the next run follows it; nothing has to be restarted."""

from bluesky_prefect import Workflow
from bluesky_prefect.stack import WORKFLOWS

workflows = [*WORKFLOWS]  # my-workflow, and find-peak where a run asks for it

# One of your own on some of the runs: Workflow("my-analysis/local", when=lambda run: run.plan_name == "scan")
'''


def make_workflow_file(path: Path) -> None:
    """Write the file with the local stack's own workflows, if it is not there."""
    with suppress(FileExistsError):
        write_first(path, _CONTENT.encode(), private=True)


def line_for(listed_at: str, deployment: str) -> str:
    """Return the line that puts a deployment on the list at ``/path/to/file.py:attribute``."""
    return f'{listed_at.rpartition(":")[2]}.append(Workflow("{deployment}"))'


def add_to_list(listed_at: str, deployment: str) -> bool:
    """Add a deployment to the list at ``/path/to/file.py:attribute``, and return whether it was missing there.

    Raises
    ------
    ConfigurationError
        If the list cannot be used, before or afterwards; the file is then as it was.
    """
    if any(workflow.deployment == deployment for workflow in load_workflows(listed_at)):
        return False
    file, line = Path(listed_at.rpartition(":")[0]), line_for(listed_at, deployment)
    before = file.read_bytes()
    _write(file, before.rstrip() + f"\n{line}\n".encode())
    try:
        load_workflows(listed_at)
    except ConfigurationError as error:
        _write(file, before)
        raise ConfigurationError(f"Nothing was added to {file}: with the line {line}, {error}") from error
    return True


def _write(file: Path, content: bytes) -> None:
    mode = file.stat().st_mode
    with whole_file(file) as stream:
        stream.write(content)
        os.fchmod(stream.fileno(), stat.S_IMODE(mode))
