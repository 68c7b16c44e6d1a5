"""Python files that people write: lists of workflows, and flows."""

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from bluesky_prefect.core._exceptions import ConfigurationError
from bluesky_prefect.core._text import error_line


def run_file(path: Path) -> ModuleType:
    """Run a Python file as it is now, and return it as a module; it can import what lies beside it.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or raises; says in which of its lines.
    """
    path = path.absolute()
    # Known to all that look for the module of a class; two files of one name are told apart.
    module = ModuleType(f"{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent))
    try:
        # Not through importlib: for a second, its cache takes a file that was edited for the one before.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - running it is the point
    except OSError as error:
        if error.filename == str(path):
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
        raise _failed(path, error) from error
    except (Exception, SystemExit) as error:  # whatever somebody's own file raises
        raise _failed(path, error) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _failed(path: Path, error: BaseException) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be run: {error_line(error)}{_line_in(path, error)}.")


def _line_in(path: Path, error: BaseException) -> str:
    """Return in which of a file's lines an error came up, in words; "" where its message says it."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""
