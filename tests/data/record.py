"""Record the streams of documents in tests/data/streams: ``python -m tests.data.record`` at the top of the repository.

One file per shape, one line of JSON per document. RunEngine and event_model made them; nothing here is written by hand
but the frames' addresses.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import event_model
from bluesky import RunEngine
from ophyd.sim import hw

STREAMS = Path(__file__).with_name("streams")
Documents = list[tuple[str, dict[str, Any]]]
_KEPT_IN = "/data/images"


def main() -> None:
    with tempfile.TemporaryDirectory() as images:
        devices = hw(save_path=images)
        record = _recorder(images)
        resource_datum = record(bp.count([devices.img], 2))
        scan = record(bp.scan([devices.det], devices.motor, -1, 1, 5))
        streams = {
            "resource_datum": resource_datum,
            "resource_datum_pages": _paged(resource_datum),
            "resource_without_run": [(name, _without(document, "run_start")) for name, document in resource_datum],
            "interleaved": record(_interleaved(devices)),
            "flyer": record(bp.fly([devices.flyer1])),
            "stream_datum": _stream_datum(),
            "scan": scan,
            "scan_pages": _paged(scan),
        }
    for name, documents in streams.items():
        lines = [json.dumps(document) + "\n" for document in documents]
        (STREAMS / f"{name}.jsonl").write_text("".join(lines))


def _recorder(images: str) -> Callable[[Any], Documents]:
    engine = RunEngine(context_managers=[])

    def record(plan: Any) -> Documents:
        documents: Documents = []
        token = engine.subscribe(lambda name, document: documents.append((name, document)))
        engine(plan)
        engine.unsubscribe(token)
        return json.loads(json.dumps(documents).replace(images, _KEPT_IN))

    return record


def _without(document: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a resource document as older sources wrote it; others as they are."""
    return {name: value for name, value in document.items() if name != key or "resource_path" not in document}


def _paged(documents: Documents) -> Documents:
    """Return the documents of a run with its data, then its events, on one page each."""
    pack = {"datum": event_model.pack_datum_page, "event": event_model.pack_event_page}
    order = [None, *pack, "stop"]
    paged: Documents = []
    by_name = sorted(documents, key=lambda document: order.index(document[0] if document[0] in order else None))
    for name, group in groupby(by_name, key=lambda document: document[0]):
        if name in pack:
            paged.append((f"{name}_page", pack[name](*(document for _, document in group))))
        else:
            paged += [(name, document) for _, document in group]
    return paged


def _interleaved(devices: Any) -> Iterator[Any]:
    """Do two runs at once, each with images: their resource documents come in turn."""

    def frame(run: str) -> Iterator[Any]:
        def plan() -> Iterator[Any]:
            yield from bps.stage(devices.img)  # begins a new file
            yield from bps.trigger_and_read([devices.img])
            yield from bps.unstage(devices.img)

        return bpp.set_run_key_wrapper(plan(), run)

    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"plan_name": "inner"})
    def inner() -> Iterator[Any]:
        for run in ("inner", "outer", "inner"):
            yield from frame(run)

    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={"plan_name": "outer"})
    def outer() -> Iterator[Any]:
        yield from frame("outer")
        yield from inner()
        yield from frame("outer")

    return outer()


def _stream_datum() -> Documents:
    """Compose a run of two detectors that write files of their own, as ophyd-async's do."""
    run = event_model.compose_run(metadata={"plan_name": "fly", "scan_id": 9})
    documents: Documents = [("start", run.start_doc)]
    key = {"source": "sim", "dtype": "array", "shape": [1, 4, 4], "dtype_numpy": "<u2", "external": "STREAM:"}
    descriptor = run.compose_descriptor(name="primary", data_keys={"left": key, "right": key})
    documents.append(("descriptor", descriptor.descriptor_doc))
    composed = []
    for name in ("left", "right"):
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost/data/scan 9/{name}.h5",
            data_key=name,
            parameters={"dataset": "/entry/data/data", "chunk_shape": [1, 4, 4]},
        )
        documents.append(("stream_resource", resource.stream_resource_doc))
        composed.append(resource.compose_stream_datum)
    for first in (0, 3):
        indices = {"start": first, "stop": first + 3}
        for compose in composed:
            datum = compose(indices=indices, seq_nums={"start": first + 1, "stop": first + 4},
                            descriptor=descriptor.descriptor_doc)  # fmt: skip
            documents.append(("stream_datum", datum))
    documents.append(("stop", run.compose_stop()))
    return documents


if __name__ == "__main__":
    main()
