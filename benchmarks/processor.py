"""Processor time of the parts of a system, each with all that it has started, also of what has ended meanwhile."""

import contextlib
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import psutil

_EVERY_S = 1.0


class ProcessorMeter:
    """Adds up the processor time of parts while it is open.

    Parameters
    ----------
    parts : callable
        Returns the parts as they are now, by name: the processes at whose roots they stand. A part may have several,
        and others later.
    titles : mapping, optional
        Parts that are known by their titles: by name, patterns of which one matches the title of a process.
    """

    def __init__(
        self, parts: Callable[[], Mapping[str, Iterable[int]]], titles: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self._parts = parts
        self._titles = titles or {}
        # By part, process and its beginning: the most that was seen of it and of those below it.
        self._seen: dict[tuple[str, int, float], float] = {}
        self._lock = threading.Lock()
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processor-meter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish.set()
        self._thread.join()

    def used_s(self) -> dict[str, float]:
        """Return how much each part has used since its processes began, in seconds."""
        self._look()
        used: dict[str, float] = defaultdict(float)
        with self._lock:
            for (name, *_), seconds in self._seen.items():
                used[name] += seconds
        return dict(used)

    def _run(self) -> None:
        while not self._finish.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        roots = {pid: name for name, pids in self._parts().items() for pid in pids}
        processes: dict[int, tuple[int, float, float]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                used = times.user + times.system + times.children_user + times.children_system
                processes[process.pid] = process.ppid(), process.create_time(), used
                if name := self._named(process):
                    roots[process.pid] = name
        sums: dict[tuple[str, int, float], float] = defaultdict(float)
        for pid, (_, _, used) in processes.items():
            if (root := _root(pid, roots, processes)) is not None:
                sums[roots[root], root, processes[root][1]] += used
        with self._lock:
            for key, seconds in sums.items():
                self._seen[key] = max(seconds, self._seen.get(key, 0.0))

    def _named(self, process: psutil.Process) -> str | None:
        if not self._titles:
            return None
        title = " ".join(process.cmdline())
        return next(
            (name for name, texts in self._titles.items() if any(re.match(text, title) for text in texts)), None
        )


def _root(pid: int, roots: Mapping[int, str], processes: Mapping[int, tuple[int, float, float]]) -> int | None:
    """Return the nearest root among a process and those above it."""
    while pid not in roots:
        if pid not in processes:
            return None
        pid = processes[pid][0]
    return pid if pid in processes else None
