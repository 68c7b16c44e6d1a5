"""Importing what flow runs need, without starting a thread, and noticing when a file of it has changed."""

import contextlib
import gc
import importlib
import os
import site
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from bluesky_prefect.worker.forkserver._protocol import threads

# All reasons together have to fit into one packet.
_LONGEST_REASON = 300


def preload(modules: Iterable[str]) -> dict[str, Any]:
    """Import modules one after the other; stop at one that starts a thread: a process in this state must not fork.

    Returns
    -------
    dict
        ``missing``: modules that are not installed; ``failed``: reasons, by module; ``threaded``: the module that has
        started a thread, or None; ``took_s``.
    """
    missing: list[str] = []
    failed: dict[str, str] = {}
    threaded: str | None = None
    start, before = time.monotonic(), threads()
    # What is imported stays: looking through it for garbage again and again would cost a third of the time.
    gc.disable()
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001  # whatever a facility's module raises, the others are of use
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                missing.append(module)
            else:
                failed[module] = repr(error)[:_LONGEST_REASON]
        if threads() > before:
            threaded = module
            break
    gc.collect()
    # Children share these objects' memory with their parent as long as no collection touches them.
    gc.freeze()
    gc.enable()
    return {"missing": missing, "failed": failed, "threaded": threaded, "took_s": time.monotonic() - start}


class Sources(MetaPathFinder):
    """The files of all modules that are loaded, those of the standard library apart, as they were when loaded."""

    def __init__(self) -> None:
        library, packages = sysconfig.get_path("stdlib"), (*site.getsitepackages(), sysconfig.get_path("purelib"))
        self._library = f"{library}{os.sep}"
        self._packages = tuple(f"{directory}{os.sep}" for directory in packages)
        self._known: dict[str, tuple[int, int] | None] = {}
        self._note_loaded()

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Look at the file of each module that is imported meanwhile before it is read."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._note_loaded()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as all others would, and note what its file is."""
        for finder in tuple(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find and (spec := find(fullname, path, target)):
                if spec.has_location and isinstance(spec.origin, str):
                    self._known[spec.origin] = _identity(spec.origin)
                return spec
        return None

    def changed(self) -> list[str]:
        """Return the files that are not what they were."""
        return [file for file, identity in self._known.items() if _identity(file) != identity]

    def _note_loaded(self) -> None:
        found, self._known = self._known, {}
        for module in list(sys.modules.values()):
            # Some modules invent attributes.
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and (not file.startswith(self._library) or file.startswith(self._packages)):
                self._known[file] = found[file] if file in found else _identity(file)


def _identity(file: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.stat(file)  # noqa: PTH116  # a thousand of them before each fork: a Path costs more than the call
        return status.st_mtime_ns, status.st_size
    return None
