"""What the courier makes of failures: they are the server's, or those of one run."""

import errno
import json
import logging
import threading
import time
from collections import deque
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.courier import JournalCourier
from bluesky_prefect.courier._journal_sender import JournalSender, RunRefused
from bluesky_prefect.journal import Journal, JournalDirectory, JournalReader
from bluesky_prefect.metrics import Signals
from bluesky_prefect.tiled_api._run_writer import RunWriter
from tests.services.prefect_process import wait_until


def _answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://tiled/api/v1/metadata/raw")
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


class _Tiled:
    """The catalog of a server that answers each question about itself with a status."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.page = ""
        self.uri = "http://tiled/api/v1/metadata/raw"
        self.context = self
        self.http_client = httpx.Client(transport=httpx.MockTransport(self._respond))

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if self.page:
            return httpx.Response(200, text=self.page)
        # As Tiled does for an entry that is not there, in any mode.
        status = 404 if request.url.path.endswith("-") else self.status
        catalog = {"data": {"attributes": {"structure_family": "container"}}}
        return httpx.Response(status, json=catalog if status == 200 else {"detail": "no"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_directory=tmp_path / "state", retry_initial_s=0.01)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """What writing the run of a uid raises."""
    errors: dict[str, Exception] = {}

    def write(sender: JournalSender, _raw: Any, _reader: Any) -> None:
        if error := errors.get(sender.path.name.removesuffix(".journal")):
            raise error

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    # In place of the twelve waits, which grow.
    monkeypatch.setattr("bluesky_prefect.courier._courier._MAX_WAIT_S", 0.05)
    return errors


def _recorded(settings: Settings, uid: str) -> Journal:
    journal = Journal(settings.journals_path, uid)
    journal.append("start", {"uid": uid, "time": 0.0})
    return journal


@pytest.fixture
def courier(settings: Settings, request: pytest.FixtureRequest) -> Any:
    raw = _Tiled()
    signals = Signals()
    courier = JournalCourier(settings, lambda: raw, signals=signals)
    courier.tiled, courier.signals = raw, signals  # type: ignore[attr-defined]
    yield courier
    courier.close(10)
    raw.http_client.close()


def test_an_ingress_that_answers_404_to_everything_is_an_outage(settings, fails, courier):
    # No run is to blame: some proxies say so where there is no server behind them.
    courier.tiled.status = 404
    for uid in ("one", "two"):
        fails[uid] = _answer(404)
        _recorded(settings, uid).close()
    courier.start()
    time.sleep(1.0)
    directory = JournalDirectory(settings.journals_path)
    assert not directory.refused()

    fails.clear()
    courier.tiled.status = 200
    wait_until(lambda: not directory.waiting(), 10)
    assert not directory.refused()


def test_a_page_that_a_proxy_shows_in_place_of_tiled_is_an_outage(settings, fails, courier):
    courier.tiled.page = "<html>Down for maintenance</html>"
    fails["one"] = json.JSONDecodeError("Expecting value", courier.tiled.page, 0)
    _recorded(settings, "one").close()
    courier.start()
    time.sleep(1.0)
    directory = JournalDirectory(settings.journals_path)
    assert not directory.refused()

    fails.clear()
    courier.tiled.page = ""
    wait_until(lambda: not directory.waiting(), 10)
    assert not directory.refused()


def test_two_journals_of_one_run_go_to_tiled_one_after_the_other(settings, courier, monkeypatch):
    at_work, together, written = [], [], []

    def write(sender, *_):
        at_work.append(sender)
        together.append(len(at_work))
        time.sleep(0.3)
        at_work.remove(sender)
        written.append(sender.path.name)

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    for _ in range(3):
        _recorded(settings, "one").close()
    courier.start()
    wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)
    assert together == [1, 1, 1]
    assert written == ["one.journal", "one.1.journal", "one.2.journal"]


@pytest.mark.parametrize("many", [2, 20])
def test_runs_of_which_few_wait_get_their_entries_in_the_order_in_which_they_were_taken(
    settings, courier, monkeypatch, many
):
    entries = []

    def write(sender, *_):
        # The first ones take longest: without an order the others overtake them.
        time.sleep(0.05 / (1 + len(entries)))
        entries.append(int(sender.path.stem))
        sender._begun()
        time.sleep(0.1)

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    for number in range(many):
        _recorded(settings, f"{number:03}").close()
    courier.start()
    wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)
    assert entries == list(range(many))


def test_the_order_holds_where_the_first_connection_to_tiled_takes_long(settings, monkeypatch):
    entries = []

    def write(sender, *_):
        time.sleep(0.05 / (1 + len(entries)))
        entries.append(int(sender.path.stem))
        sender._begun()

    def connect():
        time.sleep(0.5)
        return raw

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    monkeypatch.setattr("bluesky_prefect.courier._courier._ENTRY_S", 0.1)
    for number in range(4):
        _recorded(settings, f"{number:03}").close()
    raw = _Tiled()
    with closing(raw.http_client):
        courier = JournalCourier(settings, connect)
        courier.start()
        wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)
        courier.close(10)
    assert entries == [0, 1, 2, 3]


def test_of_many_runs_that_wait_the_newest_is_the_first(settings, monkeypatch):
    written = []
    monkeypatch.setattr(JournalSender, "_write_whole", lambda sender, *_: written.append(int(sender.path.stem)))
    monkeypatch.setattr("bluesky_prefect.courier._courier._THREADS", 1)
    for number in range(60):
        _recorded(settings, f"{number:03}").close()
    raw = _Tiled()
    with closing(raw.http_client):
        courier = JournalCourier(settings, lambda: raw)
        courier.start()
        wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)
        courier.close(10)
    assert written[:4] == [59, 58, 57, 0]


def test_a_run_whose_entry_takes_long_holds_up_the_next_for_a_moment_only(settings, courier, monkeypatch):
    written, released = [], threading.Event()
    monkeypatch.setattr("bluesky_prefect.courier._courier._ENTRY_S", 0.5)

    def write(sender, *_):
        if sender.path.stem == "000":
            released.wait(10)
        written.append(int(sender.path.stem))

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    for number in range(2):
        _recorded(settings, f"{number:03}").close()
    courier.start()
    wait_until(lambda: written == [1], 5)
    released.set()
    wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)


def test_a_run_that_is_tried_again_holds_up_nobody(settings, courier, monkeypatch):
    tries, written, released = [], [], threading.Event()

    def write(sender, *_):
        if sender.path.stem == "000":
            tries.append(sender)
            if len(tries) == 1:
                raise RunRefused("not yet")
            released.wait(10)
        written.append(int(sender.path.stem))

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    _recorded(settings, "000").close()
    courier.start()
    wait_until(lambda: len(tries) == 2, 10)
    _recorded(settings, "001").close()
    wait_until(lambda: written == [1], 5)
    released.set()
    wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)


def test_runs_that_tiled_fails_on_leave_turns_to_those_that_it_takes(settings, courier, monkeypatch):
    def write(sender, *_):
        if sender.path.stem < "012":
            time.sleep(0.1)
            raise _answer(500)

    monkeypatch.setattr(JournalSender, "_write_whole", write)
    monkeypatch.setattr("bluesky_prefect.courier._courier._MAX_WAIT_S", 0.05)
    for number in range(12):
        _recorded(settings, f"{number:03}").close()
    courier.start()
    time.sleep(1.0)  # all of them have failed
    _recorded(settings, "012").close()
    wait_until(lambda: not JournalDirectory(settings.journals_path).is_waiting("012"), 5)


def test_the_order_holds_where_tiled_went_away_while_a_run_went_on(settings, courier, monkeypatch):
    entries, tries = [], []

    def step(sender, raw):
        if sender.path.stem == "000":
            tries.append(sender)
            if len(tries) == 1:
                sender._begun()
                courier.tiled.status = 404
                raise _answer(500)
            time.sleep(0.3)
        elif len(tries) < 2:
            raise AssertionError("the other began first")
        entries.append(int(sender.path.stem))
        sender._begun()
        return True

    monkeypatch.setattr(JournalSender, "_step", step)
    _recorded(settings, "000").close()
    courier.start()
    wait_until(lambda: tries)
    _recorded(settings, "001").close()
    time.sleep(0.3)
    courier.tiled.status = 200
    wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 15)
    assert entries == [0, 1]


def test_a_run_that_has_arrived_is_not_looked_for_again_and_a_copy_of_it_is(settings, courier, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    # So that its threads come round before the directory is looked at again.
    monkeypatch.setattr("bluesky_prefect.courier._courier._LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(JournalSender, "_write_whole", lambda sender, *_: sender._is_whole())
    directory = JournalDirectory(settings.journals_path)
    courier.start()
    for _ in range(2):
        _recorded(settings, "one").close()
        wait_until(lambda: not directory.waiting(), 10)
    time.sleep(0.3)
    assert "was not told" not in caplog.text


def test_a_thread_that_hangs_at_a_run_is_told_of(settings, monkeypatch):
    now = [1_000.0]
    signals = Signals(lambda: now[0])
    hangs, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(JournalSender, "_write_whole", lambda *_: hangs.set() or goes_on.wait(60))
    courier = JournalCourier(settings, lambda: None, signals=signals)
    _recorded(settings, "one").close()
    courier.start()
    try:
        assert hangs.wait(20)
        now[0] += 3_000
        wait_until(lambda: not signals.problems(), 20)  # the run is large
        now[0] += 3_000
        wait_until(lambda: len(signals.problems()) == 1, 20)
        assert "The thread journal-courier-" in signals.problems()[0]
        goes_on.set()
        wait_until(lambda: not signals.problems(), 20)
    finally:
        goes_on.set()
        courier.close(10)


def test_a_run_that_goes_on_is_read_in_pieces_of_so_many_bytes(settings, monkeypatch):
    monkeypatch.setattr("bluesky_prefect.courier._journal_sender._MAX_BYTES", 10_000)
    journal = _recorded(settings, "one")
    for number in range(50):
        journal.append("event", {"uid": str(number), "data": {"det": "x" * 1000}})
    journal.close()
    sender = JournalSender(settings.journals_path / "one.journal")
    with closing(JournalReader(sender.path)) as reader:
        pieces = [len(piece) for piece in iter(lambda: sender._read(reader), [])]
    assert sum(pieces) == 51
    assert max(pieces) <= 11


@pytest.mark.parametrize("moment", ["soon", None, True, float("nan")])
def test_a_stop_document_without_a_time_that_is_one_delivers_its_run(settings, courier, monkeypatch, caplog, moment):
    caplog.set_level(logging.INFO)

    def write(_writer, documents):
        deque(documents, 0)
        _writer._whole()

    monkeypatch.setattr(RunWriter, "write", write)
    monkeypatch.setattr(RunWriter, "_new_writer", lambda _: None)
    journal = _recorded(settings, "one")
    journal.append("stop", {"run_start": "one", "time": moment})
    journal.close()
    courier.start()
    wait_until(lambda: "Run one is in Tiled" in caplog.text, 10)
    assert "tried again" not in caplog.text


@pytest.mark.parametrize("end", [b"", bytes(100)])
def test_a_run_that_has_no_stop_is_written_in_pieces_of_so_many_bytes_as_far_as_it_is_whole(settings, monkeypatch, end):
    monkeypatch.setattr("bluesky_prefect.courier._journal_sender._MAX_BYTES", 10_000)
    pieces = []

    def write(writer, read):
        # As it does: once to count, and once more to write.
        pieces.extend(map(len, read()))
        assert [len(piece) for piece in read()] == pieces

    monkeypatch.setattr(RunWriter, "write_unfinished", write)
    monkeypatch.setattr(RunWriter, "write", lambda _, documents: deque(documents, 0))
    monkeypatch.setattr(RunWriter, "_new_writer", lambda _: None)
    journal = _recorded(settings, "one")
    for number in range(50):
        journal.append("event", {"uid": str(number), "data": {"det": "x" * 1000}})
    journal.close()
    sender = JournalSender(settings.journals_path / "one.journal")
    with sender.path.open("ab") as file:
        file.write(end)
    with pytest.raises(RunRefused, match="damaged") if end else nullcontext():
        sender.step(None)
    assert sum(pieces) == 51
    assert max(pieces) <= 11


def test_a_run_that_tiled_fails_on_is_set_aside_only_where_it_takes_others(settings, fails, courier):
    # A Tiled whose disk is full, or a key that may read only: all runs fail, and Tiled answers questions.
    for uid in ("one", "two"):
        fails[uid] = _answer(500)
        _recorded(settings, uid).close()
    courier.start()
    time.sleep(2.0)
    directory = JournalDirectory(settings.journals_path)
    assert not directory.refused()

    _recorded(settings, "good").close()
    del fails["two"]
    wait_until(lambda: [one.run_uid for one in directory.refused()] == ["one"] and not directory.waiting(), 10)


def test_a_run_that_goes_on_in_silence_does_not_end_an_outage(settings, fails, courier, monkeypatch, caplog):
    monkeypatch.setattr(JournalSender, "_follow", lambda *_: False)  # as of one that cannot be followed
    silent = _recorded(settings, "silent")
    fails["waits"] = httpx.ConnectError("refused")
    courier.tiled.status = 503
    _recorded(settings, "waits").close()
    caplog.set_level("WARNING")
    courier.start()
    time.sleep(1.0)
    told = [record.message for record in caplog.records if "Tiled" in record.message]
    assert len(told) == 1

    silent.close()
    fails.clear()
    courier.tiled.status = 200
    wait_until(lambda: not JournalDirectory(settings.journals_path).waiting(), 10)


def test_a_machine_without_free_file_handles_sets_no_run_aside(settings, fails, courier):
    fails["one"] = OSError(errno.EMFILE, "Too many open files")
    _recorded(settings, "one").close()
    courier.start()
    time.sleep(1.0)
    directory = JournalDirectory(settings.journals_path)
    assert not directory.refused()

    fails.clear()
    wait_until(lambda: not directory.waiting(), 10)


def test_whoever_watches_hears_that_tiled_is_away_and_back(settings, fails, courier):
    def is_up() -> bool | None:
        return courier.signals.tiled.last and courier.signals.tiled.last.is_up

    courier.tiled.status = 503
    fails["one"] = httpx.ConnectError("refused")
    _recorded(settings, "one").close()
    courier.start()
    wait_until(lambda: is_up() is False, 10)
    assert "refused" in courier.signals.tiled.last.reason
    assert courier.signals.problems() == []

    fails.clear()
    courier.tiled.status = 200
    wait_until(is_up, 10)


def test_tiled_can_be_asked_while_no_run_is_on_its_way(courier):
    courier.start()
    courier.tiled.status = 503
    courier.ask_tiled()
    assert not courier.signals.tiled.last.is_up
    courier.tiled.status = 200
    courier.ask_tiled()
    assert courier.signals.tiled.last.is_up


def test_a_tiled_that_nobody_can_connect_to_is_told_with_the_reason(settings):
    def connect() -> Any:
        raise httpx.ConnectError("refused")

    signals = Signals()
    JournalCourier(settings, connect, signals=signals).ask_tiled()
    assert "refused" in signals.tiled.last.reason
