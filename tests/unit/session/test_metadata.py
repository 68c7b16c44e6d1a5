import logging
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det

from bluesky_prefect.session._metadata import PersistentMetadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "metadata.sqlite"


def _engine(path: Path) -> RunEngine:
    metadata = PersistentMetadata(path)
    return RunEngine(metadata, scan_id_source=metadata.next_scan_id)


def _scan_id(engine: RunEngine) -> int:
    scan_ids = []
    engine(count([det], 1), {"start": [lambda _, doc: scan_ids.append(doc["scan_id"])]})
    return scan_ids[0]


def test_scan_ids_go_on_after_a_restart(path: Path):
    first = _engine(path)
    assert [_scan_id(first), _scan_id(first)] == [1, 2]

    assert _scan_id(_engine(path)) == 3


def test_scan_ids_go_on_after_one_that_is_taken_elsewhere_and_never_back(path: Path):
    metadata = PersistentMetadata(path)
    metadata.skip_scan_ids(40)
    assert metadata.next_scan_id() == 41
    metadata.skip_scan_ids(7)
    metadata.skip_scan_ids(0)
    assert PersistentMetadata(path).next_scan_id() == 42


def test_metadata_goes_on_after_a_restart(path: Path):
    md = PersistentMetadata(path)
    md["proposal"] = {"id": 7, "title": "Ångström"}
    md["operator"] = "ada"
    del md["operator"]

    assert dict(PersistentMetadata(path)) == {"proposal": {"id": 7, "title": "Ångström"}}


def test_metadata_reaches_the_start_document(path: Path):
    engine = _engine(path)
    engine.md["proposal"] = "p7"
    starts = []

    engine(count([det], 1), {"start": [lambda _, doc: starts.append(doc)]})

    assert starts[0]["proposal"] == "p7"
    assert "versions" in starts[0]


def test_a_scan_id_set_by_hand_is_counted_on_from(path: Path):
    engine = _engine(path)
    engine.md["scan_id"] = 5000

    assert _scan_id(engine) == 5001
    engine.md["scan_id"] = 0
    assert _scan_id(engine) == 1


def test_two_sessions_never_draw_the_same_scan_id(path: Path):
    sessions = [PersistentMetadata(path), PersistentMetadata(path)]
    drawn: list[int] = []

    def draw(md: PersistentMetadata) -> None:
        for _ in range(50):
            md["scan_id"] = md.next_scan_id()  # as the RunEngine does
            drawn.append(md["scan_id"])

    threads = [threading.Thread(target=draw, args=(md,)) for md in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(drawn) == list(range(1, 101))


def _draw_and_die(path: Path) -> None:
    md = PersistentMetadata(path)
    md["sample"] = "Fe"
    md.next_scan_id()
    multiprocessing.current_process().kill()


def test_what_was_assigned_survives_a_kill(path: Path):
    process = multiprocessing.get_context("spawn").Process(target=_draw_and_die, args=(path,))
    process.start()
    process.join(20)

    md = PersistentMetadata(path)
    assert md["sample"] == "Fe"
    assert md.next_scan_id() == 2


def test_numpy_values_are_kept_as_numbers_and_lists(path: Path):
    md = PersistentMetadata(path)
    md["energy"] = np.float32(7.5)
    md["offsets"] = np.arange(3)

    again = PersistentMetadata(path)
    assert again["energy"] == 7.5
    assert again["offsets"] == [0, 1, 2]


def test_a_value_that_cannot_be_kept_is_refused_at_once(path: Path):
    md = PersistentMetadata(path)

    with pytest.raises(TypeError, match="object"):
        md["sample"] = object()

    assert "sample" not in md


def test_a_broken_file_is_said_and_stops_no_scan(path: Path, caplog: pytest.LogCaptureFixture):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database" * 100)

    engine = _engine(path)

    assert [_scan_id(engine), _scan_id(engine)] == [1, 2]
    assert str(path) in caplog.text
    assert {record.levelno for record in caplog.records if record.name.startswith("bluesky_prefect")} == {logging.ERROR}


def test_a_trouble_that_lasts_is_told_once_and_the_next_one_again(path: Path, caplog: pytest.LogCaptureFixture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir()
    metadata = PersistentMetadata(path)
    metadata["sample"] = "Fe"
    assert metadata.next_scan_id() == 1
    assert len(caplog.records) == 1
    path.rmdir()
    PersistentMetadata(path)  # makes it anew, as the next session does
    metadata["sample"] = "Co"
    path.unlink()
    path.mkdir()
    metadata["sample"] = "Ni"
    assert len(caplog.records) == 2
