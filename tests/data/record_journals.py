"""Record journals as this version writes them: ``python -m tests.data.record_journals`` at the top of the repository.

One folder per version, kept for good: a later version has to read what an earlier one has left behind. Run it before
the format of journals is changed, never again afterwards.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bluesky_prefect
from bluesky_prefect.journal import RunRecorder

JOURNALS = Path(__file__).with_name("journals")


def main() -> None:
    folder = JOURNALS / bluesky_prefect.__version__
    if folder.exists():
        sys.exit(f"{folder} is there: recorded journals are never recorded again.")
    recorder = RunRecorder(folder)
    for uid in ("whole", "cut"):
        for name, document in documents(uid):
            if (uid, name) != ("cut", "stop"):
                recorder(name, document)
    recorder.close()
    for path in (folder / "cut.journal", folder / "whole.journal"):
        path.chmod(0o644)
    with (folder / "cut.journal").open("r+b") as file:
        file.truncate((folder / "cut.journal").stat().st_size - 3)


def documents(uid: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a run with all kinds of values that a journal keeps as they are."""
    yield "start", {"uid": uid, "time": 1.0, "scan_id": 1, "sample": {"name": "Fe₂O₃"}, "shape": [2, None, True]}
    keys = {key: {"source": key, "dtype": "number", "shape": []} for key in ("det", "image", "text")}
    yield "descriptor", {"uid": f"{uid}-d", "run_start": uid, "time": 1.1, "name": "primary", "data_keys": keys}
    for number, value in enumerate((0.5, math.inf), 1):
        data = {"det": value, "image": np.arange(6, dtype="<u2").reshape(2, 3) * number, "text": "µm"}
        times = dict.fromkeys(data, 1.2)
        event = {"uid": f"{uid}-{number}", "descriptor": f"{uid}-d", "time": 1.2, "seq_num": number}
        yield "event", {**event, "data": data, "timestamps": times, "filled": {}}
    yield "stream_resource", {"uid": f"{uid}-r", "run_start": uid, "data_key": "image", "uri": "file://localhost/x.h5"}
    indices = {"start": 0, "stop": 2}
    datum = {"uid": f"{uid}-r/0", "stream_resource": f"{uid}-r", "descriptor": f"{uid}-d"}
    yield "stream_datum", {**datum, "indices": indices, "seq_nums": indices}
    stop = {"uid": f"{uid}-s", "run_start": uid, "time": 2.0, "exit_status": "success"}
    yield "stop", {**stop, "num_events": {"primary": 2}}


if __name__ == "__main__":
    main()
