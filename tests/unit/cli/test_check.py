"""What `check` says of this machine, and of servers that are not as they should be."""

import json
import os
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bluesky_prefect.cli.check._look import look
from bluesky_prefect.cli.check._machine import look_at_machine
from bluesky_prefect.cli.check._places import Place, Places
from bluesky_prefect.cli.check._servers import look_at_clocks
from bluesky_prefect.cli.check._waiting import look_at_journals, look_at_outbox
from bluesky_prefect.core import Settings, Submission
from bluesky_prefect.courier._courier_lock import only_courier
from bluesky_prefect.journal import SUFFIX, JournalDirectory
from bluesky_prefect.outbox import Outbox
from tests.services.dripping import DrippingServer
from tests.services.forked import run_command
from tests.services.loopback import Loopback

PREFECT = "http://127.0.0.1:4200/api"
NOWHERE = Place("", "", "start it")


def places(folder: Path, *, prefect: Place = NOWHERE, tiled: Place = NOWHERE, **settings) -> Places:
    return Places(Settings(state_directory=folder / "state", **settings), prefect, tiled)


def states(findings):
    return {one.name: one.state for one in findings}


def of(findings, name):
    [found] = [one for one in findings if one.name == name]
    return found


def submission(number: int) -> Submission:
    uid = f"{number:08d}-0000-4000-8000-000000000000"
    return Submission(f"key-{number}", "my-workflow/local", "my-workflow/local", uid)


def files(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Everything below a folder: mode, time and content."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        path: (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path, status in found.items()
    }


def test_an_open_state_directory_is_told_of_and_stays_as_it_is(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state").chmod(0o755)
    found = of(look_at_machine(places(tmp_path)), "rights")
    assert found.state == "warning"
    assert found.remedy == f"chmod 700 {tmp_path / 'state'}"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o755


def test_directories_that_are_not_there_yet_are_not_made(tmp_path):
    found = look_at_machine(places(tmp_path))
    assert states(found) == {"version": "ok", "state_directory": "ok", "output_directory": "ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_directory_is_a_problem(tmp_path):
    (tmp_path / "state").write_text("")
    found = of(look_at_machine(places(tmp_path)), "state_directory")
    assert found.state == "problem"
    assert "BLUESKY_PREFECT_STATE_DIRECTORY" in found.remedy


@pytest.mark.parametrize("left_open", [False, True])
def test_the_outbox_is_read_and_nothing_on_disk_is_changed(tmp_path, left_open):
    with_outbox = places(tmp_path)
    outbox = Outbox(with_outbox.settings.outbox_path)
    outbox.put(submission(1), api_url="http://elsewhere:4200/api")
    outbox.put(submission(2), dead="no parameter fits")
    if not left_open:
        outbox.close()
    with_outbox.settings.outbox_path.chmod(0o644)
    before = files(tmp_path)
    found = look_at_outbox(with_outbox)
    assert {path for path, content in files(tmp_path).items() if content != before.get(path)} - {
        path
        for path in before
        if path.name.endswith("-shm")  # readers count themselves there
    } == set()
    assert files(tmp_path).keys() == before.keys()
    assert states(found) == {"waiting": "ok", "address": "warning", "dead": "problem"}
    assert of(found, "waiting").found == "1 waiting, 0 sent"
    assert "http://elsewhere:4200/api" in of(found, "address").found
    outbox.close()


def test_a_file_that_is_no_outbox_is_a_problem_and_is_not_set_aside(tmp_path):
    broken = places(tmp_path)
    broken.settings.outbox_path.parent.mkdir()
    broken.settings.outbox_path.write_bytes(b"no database" * 1000)
    assert of(look_at_outbox(broken), "waiting").state == "problem"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["outbox.sqlite"]


def test_runs_that_wait_without_a_courier_and_refused_ones_are_problems(tmp_path):
    waiting = places(tmp_path)
    folder = waiting.settings.journals_path
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"{number}{SUFFIX}").write_bytes(b"x")
    directory = JournalDirectory(folder)
    directory.refuse(directory.waiting()[0].path, "a key is too long")
    found = look_at_journals(waiting)
    assert states(found) == {"waiting": "problem", "refused": "problem", "courier": "ok"}
    assert "bluesky-prefect courier" in of(found, "waiting").remedy
    assert "a key is too long" in of(found, "refused").found


def test_a_courier_for_other_servers_is_told_of(tmp_path):
    here = places(tmp_path, prefect=Place(PREFECT, "PREFECT_API_URL", ""), tiled_uri="http://127.0.0.1:8000")
    with only_courier(here.settings, prefect="http://elsewhere:4200/api", tiled="http://127.0.0.1:8000"):
        found = of(look_at_journals(here), "courier")
        assert found.state == "warning"
        assert "http://elsewhere:4200/api" in found.found
    with only_courier(here.settings, prefect=PREFECT, tiled="http://127.0.0.1:8000"):
        assert of(look_at_journals(here), "courier").state == "ok"


class _Hours(BaseHTTPRequestHandler):
    ahead_s = 0.0

    def do_GET(self):
        self.send_response_only(200)
        self.send_header("Date", formatdate(time.time() + self.ahead_s, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("ahead_s", "state", "side"), [(0, "ok", "agrees"), (90, "warning", "ahead of"), (-90, "warning", "behind")]
)
def test_a_clock_that_differs_from_a_server_s_is_told_of(ahead_s, state, side):
    server = Loopback(type("Clock", (_Hours,), {"ahead_s": ahead_s}))
    try:
        found = of(look_at_clocks(Place(f"http://{server.address}", "x", ""), NOWHERE), "prefect")
    finally:
        server.close()
    assert found.state == state
    assert side in found.found
    if ahead_s:
        assert "90 seconds" in found.found or "89 seconds" in found.found or "91 seconds" in found.found


@pytest.mark.parametrize("mode", ["silent", "body"])
def test_a_server_that_never_answers_holds_up_nothing_else(tmp_path, mode):
    server = DrippingServer(mode)
    place = Place(f"http://127.0.0.1:{server.port}", "the test", "start it")
    told: list[str] = []
    try:
        found = look(places(tmp_path, prefect=place, tiled=place, tiled_uri=place.url), told.append, limit_s=6)
    finally:
        server.close()
    by_subject = {subject: [one for one in found if one.subject == subject] for subject in ("prefect", "tiled")}
    assert all(any(one.state == "problem" for one in several) for several in by_subject.values()), found
    assert {"machine", "workflows", "outbox", "journals"} <= {one.subject for one in found if one.state == "ok"}
    assert any("Waiting for: " in line and "tiled" in line for line in told)


def test_with_nothing_there_each_problem_has_a_remedy_and_no_secret_is_shown(tmp_path):
    environment = {
        "PREFECT_API_URL": "http://ada:5ecret@127.0.0.1:9/api",
        "BLUESKY_PREFECT_TILED_URI": "http://127.0.0.1:9/api/v1?api_key=5ecret",
        "BLUESKY_PREFECT_WORKFLOWS": "not_there:workflows",
    }
    command = ("check", "--json", "--state-directory", str(tmp_path / "state"))
    done = run_command(*command, env={**os.environ, **environment})
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "5ecret" not in done.stdout + done.stderr
    content = json.loads(done.stdout)
    assert content["ok"] is False
    problems = {(one["subject"], one["name"]) for one in content["findings"] if one["state"] == "problem"}
    assert problems == {("prefect", "address"), ("tiled", "address"), ("workflows", "list")}
    assert {key for one in content["findings"] for key in one} == {"subject", "name", "state", "found", "remedy"}
    assert list(tmp_path.iterdir()) == []


def test_a_word_too_many_ends_with_2():
    assert run_command("check", "everything", env=os.environ).returncode == 2
