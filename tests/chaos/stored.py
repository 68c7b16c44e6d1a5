"""Runs as Tiled holds them, compared with the documents that were emitted."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos.emissions import Emission

Documents = Sequence[tuple[str, dict[str, Any]]]


def difference_of_run(run: Any, emission: Emission, cut: int | None = None) -> str:
    """Return how a run in Tiled differs from what was emitted, or "".

    Parameters
    ----------
    run : BlueskyRun or None
        The run as Tiled's client gives it; None if Tiled does not have it.
    emission : Emission
        What was emitted. Of a document that the recorder did not return from, Tiled need not know.
    cut : int, optional
        How many documents a fault has left in the journal.
    """
    fewest, most = (cut, cut) if cut is not None else (emission.recorded, len(emission.documents))
    if run is None:
        return "" if fewest == 0 else f"not in Tiled, of {fewest} documents"
    found = "more in Tiled than nothing"
    for length in range(most, max(fewest, 1) - 1, -1):
        if not (found := difference(run, emission.documents[:length])):
            return ""
    return found


def difference(run: Any, documents: Documents) -> str:
    """Return how a run in Tiled differs from some documents, or ""."""
    metadata = plain(run.metadata)
    [(first, start), *_] = documents
    stop = documents[-1][1] if documents[-1][0] == "stop" else None
    if first != "start" or metadata.get("start") != start:
        return f"start document: {metadata.get('start')}, emitted {start}"
    if metadata.get("stop") != stop:
        return f"stop document: {metadata.get('stop')}, emitted {stop}"
    streams = _streams(documents)
    if set(run) != set(streams):
        return f"streams {sorted(run)}, emitted {sorted(streams)}"
    return next((found for name, one in streams.items() if (found := one.difference(run[name]))), "")


def plain(value: Any) -> Any:
    """Return dictionaries and lists in place of the views that Tiled's client gives."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value


class _Stream:
    """What was emitted of a stream."""

    def __init__(self, descriptor: dict[str, Any]) -> None:
        self._name = descriptor["name"]
        self._descriptor = descriptor
        self._rows: list[dict[str, Any]] = []
        self._frames: dict[str, int] = defaultdict(int)

    def add_event(self, event: dict[str, Any]) -> None:
        timestamps = {f"ts_{key}": one for key, one in event["timestamps"].items()}
        self._rows.append({"seq_num": event["seq_num"], "time": event["time"], **event["data"], **timestamps})

    def add_frames(self, data_key: str, indices: dict[str, int]) -> None:
        self._frames[data_key] = max(self._frames[data_key], indices["stop"])

    def difference(self, stream: Any) -> str:
        return self._of_descriptor(stream) or self._of_rows(stream) or self._of_files(stream)

    def _of_descriptor(self, stream: Any) -> str:
        metadata = plain(stream.metadata)
        if metadata["uid"] != self._descriptor["uid"]:
            return f"stream {self._name}: descriptor {metadata['uid']}, emitted {self._descriptor['uid']}"
        found, emitted = set(metadata["data_keys"]), set(self._descriptor["data_keys"])
        return "" if found == emitted else f"stream {self._name}: data keys {found}, emitted {emitted}"

    def _of_rows(self, stream: Any) -> str:
        rows = stream.base["internal"].read().to_dict("records") if "internal" in stream.base else []
        found = [row["seq_num"] for row in rows]
        if sorted(found) != [row["seq_num"] for row in self._rows]:
            return f"stream {self._name}: events {found}, emitted {[row['seq_num'] for row in self._rows]}"
        by_number = {row["seq_num"]: row for row in rows}
        for emitted in self._rows:
            row = by_number[emitted["seq_num"]]
            if row.keys() != emitted.keys():
                return f"stream {self._name}: columns {sorted(row)}, emitted {sorted(emitted)}"
            for key, value in emitted.items():
                if not _same(row[key], value):
                    return f"stream {self._name}, event {emitted['seq_num']}, {key}: {row[key]!r}, emitted {value!r}"
        return ""

    def _of_files(self, stream: Any) -> str:
        for key, frames in self._frames.items():
            emitted = (frames, *self._descriptor["data_keys"][key]["shape"])
            found = stream.base[key].shape if key in stream.base else None
            if found != emitted:
                return f"stream {self._name}: {key} of shape {found}, emitted {emitted}"
        return ""


def _streams(documents: Documents) -> dict[str, _Stream]:
    streams: dict[str, _Stream] = {}
    by_descriptor: dict[str, _Stream] = {}
    data_keys: dict[str, str] = {}
    for name, doc in documents:
        if name == "descriptor":
            by_descriptor[doc["uid"]] = streams.setdefault(doc["name"], _Stream(doc))
        elif name == "event":
            by_descriptor[doc["descriptor"]].add_event(doc)
        elif name == "stream_resource":
            data_keys[doc["uid"]] = doc["data_key"]
        elif name == "stream_datum":
            by_descriptor[doc["descriptor"]].add_frames(data_keys[doc["stream_resource"]], doc["indices"])
    return streams


def _same(found: Any, emitted: Any) -> bool:
    if isinstance(emitted, float) and math.isnan(emitted):
        return isinstance(found, float) and math.isnan(found)
    return bool(found == emitted)
