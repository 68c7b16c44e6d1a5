"""A service that does not answer is asked rarely, by all processes together, and is never forgotten for ever."""

import asyncio
import json
import threading

import pytest

from bluesky_prefect.core import ServiceUnavailable
from bluesky_prefect.flows.common._outside import Patience, get_json
from bluesky_prefect.flows.common._service_record import QuestionRefused, ServiceRecord
from tests.services.outside import cat_facts

URL = "https://facts.example/fact?apikey=secret"
HOUR_S = 3600.0


class Service:
    """A service that is asked by a new process each time, so to say; the time is the test's."""

    def __init__(self, directory):
        self.directory = directory
        self.now_s = 1.8e9
        self.error = None
        self.questions = 0

    def record(self, url=URL):
        return ServiceRecord("fact", url, self.directory, lambda: self.now_s)

    def ask(self, url=URL):
        try:
            with self.record(url).asking():
                self.questions += 1
                if self.error is not None:
                    raise self.error
        except ServiceUnavailable as error:
            return str(error)
        return None


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path / "state")


@pytest.fixture
def away(service):
    """One that did not answer three times."""
    service.error = ServiceUnavailable("facts.example: refused")
    for _ in range(3):
        service.ask()
    return service


def test_a_service_that_answers_leaves_no_trace(service):
    assert service.ask() is None
    assert service.record().worth_waiting_for
    assert not service.directory.exists()


def test_after_three_in_a_row_it_is_not_asked_and_the_reason_is_known(away):
    assert away.questions == 3
    assert away.ask() == "facts.example: refused (the last 3 times; asked again in 1 minute)"
    assert away.questions == 3


def test_it_is_asked_after_waits_that_grow_to_an_hour(away):
    asked_after_min = []
    for minute in range(1, 400):
        away.now_s += 60
        before = away.questions
        away.ask()
        if away.questions > before:
            asked_after_min.append(minute)
    waits = [later - earlier for earlier, later in zip([0, *asked_after_min], asked_after_min, strict=False)]
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_answer_ends_that_at_once(away):
    away.now_s += HOUR_S
    away.error = None
    assert away.ask() is None
    away.error = ServiceUnavailable("facts.example: refused")
    assert away.ask() == "facts.example: refused"


@pytest.mark.parametrize("jump_s", [-10 * HOUR_S, 10 * HOUR_S])
def test_a_clock_that_jumps_has_it_asked_now(away, jump_s):
    away.now_s += jump_s
    away.ask()
    assert away.questions == 4


def test_another_address_is_asked_at_once(away):
    assert away.ask("https://elsewhere.example/fact") == "facts.example: refused"
    assert away.questions == 4


def test_a_question_that_is_refused_is_an_answer(away):
    away.now_s += HOUR_S
    away.error = QuestionRefused("facts.example: no such day")
    assert [away.ask() for _ in range(4)] == ["facts.example: no such day"] * 4


def test_an_error_of_ours_is_no_outage(service):
    service.error = ZeroDivisionError()
    for _ in range(4):
        with pytest.raises(ZeroDivisionError):
            service.ask()
    assert service.questions == 4


def test_others_wait_for_the_first_question_and_for_one_after_a_long_time(service):
    service.error = ServiceUnavailable("refused")
    worth = []
    for _ in range(4):
        worth.append(service.record().worth_waiting_for)
        service.ask()
    assert worth == [True, False, False, True]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"url": 1}', b"\xff", b'{"url":"x","failures":"3","last_s":1,"reason":""}']
)
def test_a_file_that_cannot_be_read_has_it_asked(away, content):
    [file] = away.directory.iterdir()
    file.write_bytes(content)
    away.ask()
    assert away.questions == 4


def test_a_directory_that_cannot_be_written_has_it_asked(service, tmp_path):
    (tmp_path / "state").write_text("not a directory")
    service.error = ServiceUnavailable("refused")
    assert [service.ask() for _ in range(5)] == ["refused"] * 5


def test_the_file_holds_no_key_and_is_private(away):
    [file] = away.directory.iterdir()
    assert "secret" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_those_who_ask_at_once_leave_a_whole_file(service):
    def fail():
        mine = Service(service.directory)
        mine.error = ServiceUnavailable("refused")
        for _ in range(20):
            mine.ask()
            mine.now_s += HOUR_S

    threads = [threading.Thread(target=fail) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [file] = service.directory.iterdir()
    assert json.loads(file.read_text())["failures"] >= 1


@pytest.mark.parametrize("begun", [True, False], ids=["under way", "not begun"])
def test_whoever_has_no_more_use_for_an_answer_ends_the_waiting(begun):
    facts, patience = cat_facts(), Patience()
    facts.mode = "hang"

    async def ask():
        question = asyncio.ensure_future(get_json(facts.url, timeout_s=3600, patience=patience))
        if begun:
            facts.on_request = lambda: loop.call_soon_threadsafe(patience.end)
        else:
            patience.end()
        await question

    async def main():
        nonlocal loop
        loop = asyncio.get_running_loop()
        await ask()

    loop = None
    try:
        with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1: no answer in time"):
            asyncio.run(main())
    finally:
        facts.close()
