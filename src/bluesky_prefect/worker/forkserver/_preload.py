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
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from bluesky_prefect.worker.forkserver._protocol import threads

# All reasons together have to fit into one packet.
_LONGEST_REASON = 300


@dataclass
class Preloaded:
    """The result of importing many modules.

    Attributes
    ----------
    missing : list of str
        Modules that are not installed.
    failed : dict
        Modules whose import failed, with the reason.
    threaded : str, optional
        The module whose import started a thread: a process in this state must not fork.
    took_s : float
        How long it took.
    """

    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    threaded: str | None = None
    took_s: float = 0.0


def preload(modules: Iterable[str]) -> Preloaded:
    """Import modules one after the other; stop at the one that starts a thread."""
    outcome = Preloaded()
    start = time.monotonic()
    before = threads()
    # What is imported stays: looking through it for garbage again and again would cost a third of the time.
    gc.disable()
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                outcome.missing.append(module)
            else:
                outcome.failed[module] = _shorten(repr(error))
        except BaseException as error:  # noqa: BLE001  # whatever a facility's module raises, the others are of use
            outcome.failed[module] = _shorten(repr(error))
        if threads() > before:
            outcome.threaded = module
            break
    gc.collect()
    # Children share these objects' memory with their parent as long as no collection touches them.
    gc.freeze()
    gc.enable()
    outcome.took_s = time.monotonic() - start
    return outcome


def _shorten(text: str) -> str:
    """Return the beginning of a text: some errors quote a whole file."""
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


class Sources(MetaPathFinder):
    """The files of all modules that are loaded, those of the standard library apart, as they were when loaded."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int] | None] = {file: _identity(file) for file in _files()}

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Look at the file of each module that is imported meanwhile before it is read."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            found, self._known = self._known, {}
            for file in _files():
                self._known[file] = found[file] if file in found else _identity(file)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as all others would, and note what its file is."""
        for finder in tuple(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None or (spec := find(fullname, path, target)) is None:
                continue
            if spec.has_location and isinstance(spec.origin, str):
                self._known[spec.origin] = _identity(spec.origin)
            return spec
        return None

    def changed(self) -> list[str]:
        """Return the files that are not what they were."""
        return [file for file, identity in self._known.items() if _identity(file) != identity]


def _files() -> Iterator[str]:
    library = sysconfig.get_path("stdlib")
    packages = tuple(f"{directory}{os.sep}" for directory in (*site.getsitepackages(), sysconfig.get_path("purelib")))
    for module in list(sys.modules.values()):
        # Some modules invent attributes.
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and (not file.startswith(f"{library}{os.sep}") or file.startswith(packages)):
            yield file


def _identity(file: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.stat(file)  # noqa: PTH116  # a thousand of them before each fork: a Path costs more than the call
        return status.st_mtime_ns, status.st_size
    return None
