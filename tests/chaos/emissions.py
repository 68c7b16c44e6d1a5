"""The documents that acquisitions emitted, kept by the campaign and by nothing of what is being tested.

An acquisition writes each document to a pipe before anything else sees it, and a second line once the recorder has
returned from it. A pipe holds what a killed process wrote, and neither a full disk nor a file-size limit closes it. The
campaign, which nothing kills, reads the pipe and keeps a file of JSON lines for each run.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SUFFIX = ".jsonl"
_DRAIN_TIMEOUT_S = 30.0


@dataclass
class Emission:
    """What became of a run before Tiled.

    Attributes
    ----------
    documents : list
        Its documents in their order, by kind.
    recorded : int
        How many of them the recorder returned from; one less than all where the acquisition was killed.
    """

    documents: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    recorded: int = 0

    @property
    def events(self) -> int:
        return sum(name == "event" for name, _ in self.documents)


class Emitter:
    """The acquisition's end of the pipe: two RunEngine callbacks, for before and after the recorder.

    Parameters
    ----------
    descriptor : int
        The pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._run_of: dict[str, str] = {}

    def before(self, name: str, doc: dict[str, Any]) -> None:
        """Tell the campaign of a document."""
        for key in ("uid", "run_start", "descriptor", "stream_resource"):
            if doc.get(key) in self._run_of:
                run = self._run_of[doc[key]]
                break
        else:
            run = doc["uid"]  # a start document
        self._run_of[doc["uid"]] = run
        self._say({"run": run, "name": name, "doc": doc})

    def after(self, name: str, doc: dict[str, Any]) -> None:
        """Tell the campaign that the recorder has a document."""
        self._say({"run": self._run_of[doc["uid"]]})
        if name == "stop":
            self._run_of.clear()

    def _say(self, content: dict[str, Any]) -> None:
        left = memoryview(json.dumps(content, default=_json).encode() + b"\n")
        while left:
            left = left[os.write(self._descriptor, left) :]


class Emissions:
    """The campaign's end of the pipes.

    Parameters
    ----------
    directory : Path
        Where the files go, one for each run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._threads: list[threading.Thread] = []
        directory.mkdir(parents=True, exist_ok=True)

    def follow(self, descriptor: int) -> None:
        """Keep what comes out of a pipe until nobody can write to it."""
        thread = threading.Thread(target=self._keep, args=(descriptor,), name="emissions", daemon=True)
        thread.start()
        self._threads.append(thread)

    def drain(self, alive: int) -> None:
        """Wait until all is kept that ended acquisitions wrote; so many of them are `alive`."""
        for thread in self._threads:
            if sum(one.is_alive() for one in self._threads) <= alive:
                return
            thread.join(_DRAIN_TIMEOUT_S)

    def begun(self) -> set[str]:
        """Return the runs whose start document came."""
        return {path.name.removesuffix(_SUFFIX) for path in self._directory.iterdir()}

    def of(self, uid: str) -> Emission:
        """Return what was emitted of a run."""
        emission = Emission()
        for line in self.path(uid).read_text().splitlines():
            content = json.loads(line)
            if "name" in content:
                emission.documents.append((content["name"], content["doc"]))
            else:
                emission.recorded += 1
        return emission

    def path(self, uid: str) -> Path:
        """Return the file of a run."""
        return self._directory / f"{uid}{_SUFFIX}"

    def _keep(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as pipe:
            for line in _whole_lines(pipe):
                run = json.loads(line)["run"]
                with self.path(run).open("ab") as file:
                    file.write(line)


def _whole_lines(pipe: Any) -> Iterator[bytes]:
    """Yield the lines of a pipe but the last, if its writer was killed in it."""
    yield from (line for line in pipe if line.endswith(b"\n"))


def _json(value: Any) -> Any:
    """Convert what JSON does not know: numpy's numbers and arrays."""
    to_list: Callable[[], Any] = value.tolist
    return to_list()
