"""The recorder, with a RunEngine and with documents of every shape, through kills, forks and disks that refuse."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det, direct_img

from bluesky_prefect.journal import SUFFIX, Journal, JournalDamaged, JournalReader, RunRecorder
from bluesky_prefect.journal._frames import frame
from tests.data.record import STREAMS
from tests.services.full_disk import full_disk
from tests.services.prefect_process import wait_until

Documents = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[RunRecorder]:
    recorder = RunRecorder(tmp_path)
    yield recorder
    recorder.close()


def read(path: Path) -> Documents:
    with closing(JournalReader(path)) as reader:
        return list(reader.documents())


def recorded(directory: Path) -> dict[str, Documents]:
    """Return the documents of each run."""
    return {(found := read(path))[0][1]["uid"]: found for path in directory.glob(f"*{SUFFIX}")}


def list_in(value: Any) -> Any:
    """Return documents with lists where they have tuples, which msgpack does not know; the outermost stays one."""
    match value:
        case dict():
            return {
                key: list(map(list_in, one)) if isinstance(one, tuple) else list_in(one) for key, one in value.items()
            }
        case list() | tuple():
            return type(value)(map(list_in, value))
    return value


def names(documents: Documents) -> list[str]:
    return [name for name, _ in documents]


def test_documents_are_recorded_as_they_are(recorder, tmp_path):
    engine = RunEngine()
    emitted: Documents = []
    engine.subscribe(recorder)
    engine.subscribe(lambda name, doc: emitted.append((name, doc)))

    (uid,) = engine(count([det, direct_img], 2), angles=np.arange(3), raw=b"\x00\xff", rate=float("nan"))

    np.testing.assert_equal(recorded(tmp_path)[uid], [list_in(one) for one in emitted])
    assert type(recorded(tmp_path)[uid][0][1]["raw"]) is bytes


@pytest.mark.parametrize("stream", sorted(STREAMS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_each_run_of_any_shape_has_a_file_with_all_its_documents(recorder, tmp_path, stream):
    emitted = [json.loads(line) for line in stream.read_text().splitlines()]
    for name, doc in emitted:
        recorder(name, doc)

    found = recorded(tmp_path)
    starts = [doc["uid"] for name, doc in emitted if name == "start"]
    assert sorted(found) == sorted(starts)
    # A resource that names no run is each open run's.
    assert sum(map(len, found.values())) >= len(emitted)
    for documents in found.values():
        assert names(documents)[0] == "start"
        assert names(documents)[-1] == "stop"
        assert [list(one) for one in documents] == [one for one in emitted if list(one) in map(list, documents)]


def test_metadata_of_any_kind_is_recorded_somehow(recorder, tmp_path):
    start = {"uid": "../hostile/\x00 uid", "time": 0.0, "sample": object(), "count": 2**70, "name": "\ud800"}
    start["self"] = start
    recorder("start", start)
    recorder("stop", {"uid": "s", "run_start": start["uid"], "time": 1.0, "exit_status": "success"})

    [path] = tmp_path.iterdir()
    assert names(read(path)) == ["start", "stop"]
    assert "object object" in read(path)[0][1]["sample"]


class _Local:
    """What no other process knows."""


@pytest.mark.parametrize(
    "odd",
    [
        np.array([lambda: 1], dtype=object),
        np.array([_Local()], dtype=object),
        np.zeros(1, dtype=[("a", int), ("b", object)]),
        {(0, 1): "a", (0, 2): ["b"]},
        {b"nd": True, b"type": "no", b"shape": 1, b"data": b""},
        np.array(["2026-01-01"], dtype="M8[ns]"),
    ],
    ids=["no pickle", "a pickle", "structured", "keys of two", "like an array", "dates"],
)
def test_a_value_that_another_process_cannot_read_does_not_damage_the_run(odd, recorder, tmp_path):
    recorder("start", {"uid": "u", "time": 0.0, "odd": odd})
    recorder("stop", {"uid": "s", "run_start": "u", "time": 1.0, "exit_status": "success"})
    code = (
        "import sys\nfrom pathlib import Path\nfrom bluesky_prefect.journal import JournalReader\n"
        "print([name for name, _ in JournalReader(Path(sys.argv[1])).documents()])"
    )
    [path] = tmp_path.iterdir()
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.stdout == "['start', 'stop']\n", done.stderr


def test_an_array_is_recorded_whole_beside_a_value_that_msgpack_does_not_know(recorder, tmp_path):
    image = np.arange(500_000.0).reshape(500, 1000)
    recorder("start", {"uid": "u", "time": 0.0})
    recorder("descriptor", {"uid": "d", "run_start": "u", "name": "primary"})
    recorder("event", {"uid": "e", "descriptor": "d", "data": {"image": image, "when": np.datetime64("2026-01-01")}})
    recorder("stop", {"uid": "s", "run_start": "u", "time": 1.0, "exit_status": "success"})
    [path] = tmp_path.iterdir()
    data = read(path)[-2][1]["data"]
    assert np.array_equal(data["image"], image)
    assert "2026" in data["when"]


def test_what_is_in_a_journal_is_never_run(tmp_path):
    class Mean:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was run",)

    path = tmp_path / f"u{SUFFIX}"
    path.write_bytes(frame("start", {"uid": "u", "md": {b"nd": True, b"kind": b"O", b"data": pickle.dumps(Mean())}}))
    assert names(read(path)) == ["start"]
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    "document",
    [("event", {}), ("start", {}), ("stop", {"run_start": ["x"]}), ("descriptor", {"run_start": "none"}), ("x", {})],
)
def test_no_document_raises(recorder, document):
    recorder(*document)


_SCAN_AND_DIE = """
import os, signal, sys
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det
from pathlib import Path
from bluesky_prefect.journal import RunRecorder

engine = RunEngine(context_managers=[])
engine.subscribe(RunRecorder(Path(sys.argv[1])))
engine.subscribe(lambda name, doc: print(name, flush=True))
engine.subscribe(lambda name, doc: doc["seq_num"] == 3 and os.kill(os.getpid(), signal.SIGKILL), "event")
engine(count([det], 100))
"""


def test_a_killed_session_leaves_all_that_was_emitted(tmp_path):
    done = subprocess.run([sys.executable, "-c", _SCAN_AND_DIE, str(tmp_path)], capture_output=True, text=True)

    assert done.returncode == -signal.SIGKILL, done.stderr
    [path] = tmp_path.iterdir()
    assert names(read(path)) == done.stdout.split()
    with closing(JournalReader(path)) as reader:
        assert not reader.is_written()


def test_a_journal_is_read_while_it_is_written_and_nobody_else_writes_it(recorder, tmp_path):
    other = RunRecorder(tmp_path)
    for one in (recorder, other):
        one("start", {"uid": "u", "time": 0.0})
    [path] = tmp_path.iterdir()
    with closing(JournalReader(path)) as reader:
        assert names(reader.documents()) == ["start"]
        for one in (recorder, other):
            one("descriptor", {"uid": "d", "run_start": "u"})
        assert names(reader.documents()) == ["descriptor"]
        assert reader.is_written()
        recorder("stop", {"uid": "s", "run_start": "u"})
        assert names(reader.documents()) == ["stop"]
        assert not reader.is_written()


def test_a_run_that_is_emitted_anew_has_another_file(recorder, tmp_path):
    for _ in range(2):
        recorder("start", {"uid": "u", "time": 0.0})
        recorder("stop", {"uid": "s", "run_start": "u"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["u.1.journal", "u.journal"]


def test_a_file_that_is_cut_anywhere_gives_what_is_whole(tmp_path):
    documents = [("start", {"uid": "u"}), ("descriptor", {"uid": "d", "x": "y" * 50}), ("stop", {"uid": "s"})]
    frames = [frame(*one) for one in documents]
    whole, path = b"".join(frames), tmp_path / "u.journal"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with closing(JournalReader(path)) as reader:
            fits = sum(size >= sum(map(len, frames[: number + 1])) for number in range(3))
            assert [tuple(one) for one in reader.documents()] == documents[:fits]
            with path.open("ab") as file:
                file.write(whole[size:])
            assert [tuple(one) for one in reader.documents()] == documents[fits:]


def test_other_bytes_than_were_written_are_no_documents(tmp_path):
    first = frame("start", {"uid": "u"})
    path = tmp_path / "u.journal"
    path.write_bytes(first + bytes(4096))
    with closing(JournalReader(path)) as reader:
        found = []
        with pytest.raises(JournalDamaged, match=f"u.journal is damaged at byte {len(first)}"):
            found.extend(one for one in reader.documents())


def test_no_bit_can_be_another_without_notice(tmp_path):
    first, second, third = frame("start", {"uid": "u"}), frame("stop", {"uid": "s"}), frame("stop", {"uid": "t"})
    path = tmp_path / "u.journal"
    for bit in range(8 * len(second)):  # a length that is damaged too: it must not pass for the end of what was written
        damaged = bytearray(first + second + third)
        damaged[len(first) + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with closing(JournalReader(path)) as reader:
            found = []
            with pytest.raises(JournalDamaged):
                found.extend(one for one in reader.documents())


def test_what_a_full_disk_refuses_is_told_once_and_written_when_there_is_room(recorder, tmp_path, caplog):
    recorder("start", {"uid": "u", "time": 0.0})
    with full_disk(size=1000):
        for number in range(100):
            recorder("descriptor", {"uid": f"d{number}", "run_start": "u", "text": "x" * 100})
        [path] = tmp_path.iterdir()
        assert 0 < len(read(path)) < 10
    wait_until(lambda: len(read(path)) == 101)
    recorder("stop", {"uid": "s", "run_start": "u"})

    assert [doc["uid"] for _, doc in read(path)] == ["u", *(f"d{number}" for number in range(100)), "s"]
    refused = [record for record in caplog.records if "cannot be written" in record.message]
    assert len(refused) == 1
    assert str(tmp_path) in refused[0].message


def test_a_run_that_stops_while_the_disk_refuses_it_is_written_later(tmp_path, caplog):
    (tmp_path / "journals").touch()  # no directory
    recorder = RunRecorder(tmp_path / "journals")
    recorder("start", {"uid": "u", "time": 0.0})
    recorder("stop", {"uid": "s", "run_start": "u"})
    assert "run u cannot be written" in caplog.text
    (tmp_path / "journals").unlink()
    recorder.close()

    [path] = (tmp_path / "journals").iterdir()
    assert names(read(path)) == ["start", "stop"]


def test_of_two_recorders_that_the_disk_refuses_one_writes_the_run_later(tmp_path, caplog):
    (tmp_path / "journals").touch()  # no directory
    recorders = [RunRecorder(tmp_path / "journals") for _ in range(2)]
    for recorder in recorders:
        recorder("start", {"uid": "u", "time": 0.0})
    (tmp_path / "journals").unlink()
    path = tmp_path / "journals" / "u.journal"
    wait_until(lambda: path.exists() and names(read(path)) == ["start"])
    for recorder in recorders:
        recorder("stop", {"uid": "s", "run_start": "u"})
        recorder.close()

    assert names(read(path)) == ["start", "stop"]
    assert "cannot be recorded" not in caplog.text


def test_a_child_lets_go_of_its_parent_s_runs(recorder, tmp_path):
    recorder("start", {"uid": "u", "time": 0.0})
    if (child := os.fork()) == 0:
        try:
            recorder("descriptor", {"uid": "of-the-child", "run_start": "u"})
            recorder("start", {"uid": "c", "time": 0.0})
            recorder("stop", {"uid": "s", "run_start": "c"})
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    recorder("stop", {"uid": "s", "run_start": "u"})

    assert {uid: names(found) for uid, found in recorded(tmp_path).items()} == {
        "u": ["start", "stop"],
        "c": ["start", "stop"],
    }


def test_what_another_thread_is_bringing_to_the_disk_is_not_there_before_that_has_done_so(tmp_path, monkeypatch):
    begun, go_on, synced = threading.Event(), threading.Event(), []

    def slow(descriptor: int) -> None:
        begun.set()
        assert go_on.wait(10)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    journal = Journal(tmp_path, "a")
    journal.append("stop", {"run_start": "a"})
    other = threading.Thread(target=journal.sync)
    other.start()
    assert begun.wait(10)
    threading.Timer(0.2, go_on.set).start()

    assert journal.sync()

    assert len(synced) == 1
    journal.close()
    other.join()


def test_a_start_does_not_wait_for_the_disk(recorder, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (begun.set(), go_on.wait(10)))

    recorder("start", {"uid": "a"})

    assert begun.wait(10)
    assert not go_on.is_set()
    go_on.set()
    recorder("stop", {"run_start": "a"})


def test_a_thread_that_cannot_be_started_is_started_with_the_next_run(recorder, tmp_path, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        recorder("start", {"uid": "one", "time": 0.0})
    assert recorder._thread is None
    recorder("start", {"uid": "two", "time": 0.0})
    wait_until(lambda: not any(journal._dirty for journal in recorder._open()), 10)
    for uid in ("one", "two"):
        recorder("stop", {"uid": f"end of {uid}", "run_start": uid, "time": 1.0})
    assert {uid: len(found) for uid, found in recorded(tmp_path).items()} == {"one": 2, "two": 2}
