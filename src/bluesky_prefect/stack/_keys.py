"""Secrets of the stack's servers: Tiled's API key, and user and password of Prefect."""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import SecretStr

from bluesky_prefect.core import lock_file, write_first, write_whole

if TYPE_CHECKING:
    from bluesky_prefect.stack._info import StackPaths

# The settings of Prefect's server and of its clients that hold user and password.
SERVER_AUTH_STRING = "PREFECT_SERVER_API_AUTH_STRING"
CLIENT_AUTH_STRING = "PREFECT_API_AUTH_STRING"


@dataclass(frozen=True)
class StackKeys:
    """The secrets of one stack, each of which lies in a file of mode 0600.

    They are the API key of the Tiled server, and ``user:password`` of the Prefect server.
    """

    tiled: SecretStr
    prefect: SecretStr

    @classmethod
    def none(cls) -> Self:
        """Return the keys of a stack that has none."""
        return cls(SecretStr(""), SecretStr(""))

    @classmethod
    def load(cls, paths: "StackPaths") -> Self | None:
        """Return the keys of a stack, or None unless there are all of them."""
        try:
            tiled, prefect = _read(paths.tiled_api_key), _read(paths.prefect_auth_string)
        except OSError:
            return None
        return cls(SecretStr(tiled), SecretStr(prefect)) if tiled and prefect else None

    @classmethod
    def load_or_make(cls, paths: "StackPaths") -> Self:
        """Return the keys of a stack; those that are missing are made, in a directory that is there.

        Raises `OSError` if a file cannot be made, or is not this user's to read.
        """
        tiled = _read_or_make(paths.tiled_api_key, lambda: secrets.token_hex(32))
        prefect = _read_or_make(paths.prefect_auth_string, lambda: f"bluesky:{secrets.token_urlsafe(32)}")
        return cls(SecretStr(tiled), SecretStr(prefect))


def _read_or_make(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in a file; of all who find it missing or damaged at once, the first one's is everybody's."""
    if path.exists() and (present := _read(path)):
        return present
    secret = (make() + "\n").encode()
    try:
        write_first(path, secret, private=True)
    except FileExistsError:
        _replace_if_damaged(path, secret)
    return _read(path)


def _read(path: Path) -> str:
    """Return the secret in a file; empty if there is none, or what a power cut leaves."""
    text = path.read_bytes().strip().decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else ""


def _replace_if_damaged(path: Path, secret: bytes) -> None:
    with path.open("rb+") as found:
        # Whoever replaces this very file holds its lock; who comes too late finds another one under its name.
        lock_file(found, wait=True)
        if os.path.samestat(os.fstat(found.fileno()), path.stat()) and not _read(path):
            write_whole(path, secret, private=True)
