"""What a campaign keeps of emitted documents, and how it finds what Tiled has otherwise."""

import json
import os
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
from bluesky import RunEngine
from bluesky.plans import count, scan
from ophyd.sim import det, motor

from bluesky_prefect.sim import make_devices
from tests.chaos.emissions import Emission, Emissions, Emitter
from tests.chaos.stored import difference_of_run

DIES = """
import os, signal, sys
from tests.chaos.emissions import Emitter
emitter = Emitter(int(sys.argv[1]))
for name, doc in [("start", {"uid": "run"}), ("descriptor", {"uid": "d", "run_start": "run"})]:
    emitter.before(name, doc)
    if name == "start":
        emitter.after(name, doc)
os.write(int(sys.argv[1]), b'{"run": "run", "na')
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def emitted(tmp_path) -> dict[str, Emission]:
    """What was emitted of some runs, by kind."""
    reader, writer = os.pipe()
    emissions, emitter = Emissions(tmp_path), Emitter(writer)
    emissions.follow(reader)
    engine = RunEngine(context_managers=[])
    engine.subscribe(emitter.before)
    engine.subscribe(emitter.after)
    image_det = make_devices(tmp_path / "images").image_det
    uids = [engine(plan)[0] for plan in (scan([det], motor, -1, 1, 3), count([image_det], 2))]
    os.close(writer)
    emissions.drain(alive=0)
    assert emissions.begun() >= set(uids)
    return {kind: emissions.of(uid) for kind, uid in zip(("scan", "images"), uids, strict=True)}


class Stored:
    """What Tiled's client gives of a run that was stored as it was emitted, as far as the comparison asks."""

    def __init__(self, documents: list[tuple[str, dict[str, Any]]]) -> None:
        [(_, start), (_, descriptor), *_] = documents
        self.metadata = {"start": dict(start)}
        if documents[-1][0] == "stop":
            self.metadata["stop"] = documents[-1][1]
        self.rows = [
            {"seq_num": doc["seq_num"], "time": doc["time"], **doc["data"]}
            | {f"ts_{key}": value for key, value in doc["timestamps"].items()}
            for name, doc in documents
            if name == "event"
        ]
        self.frames = sum(name == "stream_datum" for name, _ in documents)
        self.descriptor = {"uid": descriptor["uid"], "data_keys": dict(descriptor["data_keys"])}

    def __iter__(self):
        return iter(["primary"])

    def __getitem__(self, name: str) -> Any:
        table = type("Table", (), {"read": lambda _: pd.DataFrame(self.rows)})()
        array = type("Array", (), {"shape": (self.frames, 64, 64)})()
        return type("Stream", (), {"metadata": self.descriptor, "base": {"internal": table, "image_det": array}})()


def test_documents_are_kept_as_they_were_emitted(emitted):
    assert [name for name, _ in emitted["scan"].documents] == ["start", "descriptor", *["event"] * 3, "stop"]
    assert emitted["scan"].recorded == 6
    assert emitted["scan"].events == 3
    assert sum(name == "stream_datum" for name, _ in emitted["images"].documents) == 2


def test_of_a_killed_process_all_is_kept_that_it_wrote_in_whole_lines(tmp_path):
    reader, writer = os.pipe()
    emissions = Emissions(tmp_path)
    emissions.follow(reader)
    subprocess.run([sys.executable, "-c", DIES, str(writer)], pass_fds=[writer], check=False)
    os.close(writer)
    emissions.drain(alive=0)
    assert [name for name, _ in emissions.of("run").documents] == ["start", "descriptor"]
    assert emissions.of("run").recorded == 1


@pytest.mark.parametrize("kind", ["scan", "images"])
def test_what_is_stored_as_it_was_emitted_does_not_differ(emitted, kind):
    documents = emitted[kind].documents
    for length in range(2, len(documents) + 1):
        assert difference_of_run(Stored(documents[:length]), emitted[kind], cut=length) == ""
    assert difference_of_run(Stored(documents), emitted[kind]) == ""


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("scan", lambda run: run.metadata["start"].update(scan_id=99), "start document"),
        ("scan", lambda run: run.metadata.pop("stop"), "stop document"),
        ("scan", lambda run: run.rows.pop(), "events [1, 2], emitted [1, 2, 3]"),
        ("scan", lambda run: run.rows.append(run.rows[0]), "events [1, 2, 3, 1]"),
        ("scan", lambda run: run.rows[1].update(det=0.5), "event 2, det: 0.5"),
        ("scan", lambda run: run.rows[1].update(ts_motor=1.0), "event 2, ts_motor"),
        ("scan", lambda run: [row.pop("motor") for row in run.rows], "columns"),
        ("scan", lambda run: run.descriptor["data_keys"].pop("motor"), "data keys"),
        ("scan", lambda run: run.descriptor.update(uid="other"), "descriptor other"),
        ("images", lambda run: setattr(run, "frames", 1), "image_det of shape (1, 64, 64)"),
    ],
)
def test_whatever_is_stored_otherwise_is_found(emitted, kind, change, reason):
    run = Stored(emitted[kind].documents)
    change(run)
    assert reason in difference_of_run(run, emitted[kind])


def test_of_a_killed_run_the_last_document_may_be_there_or_not(emitted):
    killed = Emission(emitted["scan"].documents[:5], recorded=4)
    assert difference_of_run(Stored(killed.documents), killed) == ""
    assert difference_of_run(Stored(killed.documents[:4]), killed) == ""
    assert "events [1]" in difference_of_run(Stored(killed.documents[:3]), killed)
    assert difference_of_run(None, killed) == "not in Tiled, of 4 documents"
    assert difference_of_run(None, Emission(killed.documents[:1], recorded=0)) == ""


def test_of_a_journal_that_was_cut_that_much_is_stored_and_no_more(emitted):
    documents = emitted["scan"].documents
    assert "stop document" in difference_of_run(Stored(documents), emitted["scan"], cut=4)
    assert difference_of_run(None, emitted["scan"], cut=0) == ""
    assert difference_of_run(Stored(documents[:2]), emitted["scan"], cut=0) != ""


def test_values_survive_the_pipe(emitted):
    events = [doc for name, doc in emitted["scan"].documents if name == "event"]
    assert json.loads(json.dumps(events)) == events
