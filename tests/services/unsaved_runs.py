"""Files as a session leaves them of runs that Tiled did not take, whole and broken."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
from event_model import compose_run

Documents = Iterator[tuple[str, dict[str, Any]]]


def write_unsaved_run(directory: Path, kind: str) -> tuple[str, Path]:
    """Write the file of a run that is like one of `KINDS`; return the run's uid and the file."""
    documents = list(KINDS[kind]())
    uid = documents[0][1]["uid"]
    path = directory / f"{uid}.msgpack"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DAMAGE.get(kind, bytes)(b"".join(msgpack.packb(list(one)) for one in documents)))
    return uid, path


def _run(values: list[Any], **data_key: Any) -> Documents:
    run = compose_run(metadata={"scan_id": 1, "plan_name": "kept"})
    key = {"source": "test", "dtype": "number", "shape": [], **data_key}
    stream = run.compose_descriptor(name="primary", data_keys={"x": key})
    yield "start", run.start_doc
    yield "descriptor", stream.descriptor_doc
    filled = {"x": False} if "external" in data_key else {}
    for number, value in enumerate(values, start=1):
        yield (
            "event",
            stream.compose_event(
                data={"x": value}, timestamps={"x": float(number)}, seq_num=number, filled=filled, validate=False
            ),
        )
    yield "stop", run.compose_stop()


def _with_nul(data_key: str) -> Documents:
    run = compose_run(metadata={"scan_id": 1, "plan_name": "kept", "sam\0ple": "Cu\0"})
    key = {"source": "\0", "dtype": "number", "shape": []}
    stream = run.compose_descriptor(name="primary", data_keys={data_key: key})
    yield "start", run.start_doc
    yield "descriptor", stream.descriptor_doc
    yield "event", stream.compose_event(data={data_key: 1.0}, timestamps={data_key: 1.0}, seq_num=1)
    yield "stop", run.compose_stop()


def _of_unknown_format() -> Documents:
    run = compose_run(metadata={"scan_id": 1, "plan_name": "kept"})
    key = {"source": "test", "dtype": "number", "shape": [1], "external": "STREAM:", "dtype_numpy": "<f8"}
    stream = run.compose_descriptor(name="primary", data_keys={"x": key})
    resource = run.compose_stream_resource(
        mimetype="application/x-nobody-knows-it", uri="file://localhost/nowhere/x", data_key="x", parameters={}
    )
    yield "start", run.start_doc
    yield "descriptor", stream.descriptor_doc
    yield "stream_resource", resource.stream_resource_doc
    yield "stream_datum", resource.compose_stream_datum({"start": 0, "stop": 1}, descriptor=stream.descriptor_doc)
    yield "stop", run.compose_stop()


KINDS: dict[str, Callable[[], Documents]] = {
    "good": lambda: _run([1.0, 2.0]),
    "NUL in metadata": lambda: _with_nul("x"),
    "NUL in a data key": lambda: _with_nul("x\0"),
    "a value changes its type": lambda: _run([1.0, "two"]),
    "a datum without its resource": lambda: _run(["lost/0"], external="FILESTORE:", dtype="array", shape=[1]),
    "a format that Tiled does not know": _of_unknown_format,
    "zeros at the end": lambda: _run([1.0, 2.0]),
    "garbage": lambda: _run([1.0]),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeros at the end": lambda packed: packed[:-200] + bytes(4096),
    "garbage": lambda packed: bytes(range(255, 100, -1)) + packed,
}
