"""The file of workflows that people edit, and that 'bluesky-prefect deploy --add' adds to."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from bluesky_prefect.core import ConfigurationError, load_workflows, lock_file, whole_file, write_first

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
        If the list cannot be used, before or afterwards; nothing was written then.
    """
    # Not the link to it that somebody has made.
    file, line = Path(listed_at.rpartition(":")[0]).resolve(), line_for(listed_at, deployment)
    if not file.is_file():
        load_workflows(listed_at)  # says so
    # The folder, since the file makes way for another one.
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lock_file(folder, wait=True)
        if any(workflow.deployment == deployment for workflow in load_workflows(listed_at)):
            return False
        content = file.read_bytes().rstrip() + f"\n{line}\n".encode()
        # Beside it, where what it imports lies.
        trial = file.with_name(f".{file.stem}-{secrets.token_hex(4)}.py")
        try:
            _write(trial, content, file.stat().st_mode)
            load_workflows(f"{trial}:{listed_at.rpartition(':')[2]}")
        except ConfigurationError as error:
            reason = str(error).replace(str(trial), str(file))
            raise ConfigurationError(
                f"Nothing was added, since with the line {line}: {reason} Put the workflow into the list by hand."
            ) from error
        finally:
            trial.unlink(missing_ok=True)
        _write(file, content, file.stat().st_mode)
    finally:
        os.close(folder)
    return True


def _write(file: Path, content: bytes, mode: int) -> None:
    with whole_file(file) as stream:
        stream.write(content)
        os.fchmod(stream.fileno(), stat.S_IMODE(mode))
