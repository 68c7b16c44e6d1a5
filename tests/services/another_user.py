"""Another user of this machine, who tries things."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import missing_service

NOBODY = 65534
# Imported as oneself: the interpreter may lie where nobody else may look.
_BECOME_NOBODY = f"""
import encodings.idna, encodings.latin_1, http.client, json, os, pathlib, select, socket, sys, time, urllib.error
import urllib.request
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); os.chdir("/")
"""


def as_nobody(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python code as another user, with modules imported that it may need; what it prints is in a pipe."""
    if os.geteuid() != 0:
        missing_service("root, to be another user")
    command = [sys.executable, "-I", "-c", _BECOME_NOBODY + code, *arguments]
    return subprocess.Popen(command, env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said_by(process: subprocess.Popen[str]) -> str:
    """Return what it printed until it ended."""
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return said


@contextmanager
def reachable(path: Path) -> Iterator[None]:
    """Open to others all that a directory lies in, which pytest closes, so that its own mode is what keeps them out."""
    modes = {one: one.stat().st_mode for one in path.parents if one.stat().st_uid == os.geteuid() and one != Path("/")}
    for one, mode in modes.items():
        one.chmod(mode | 0o005)
    try:
        yield
    finally:
        for one, mode in modes.items():
            one.chmod(mode)
