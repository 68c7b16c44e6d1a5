"""When the list of workflows is loaded, to note since when a workflow is on it."""

import logging
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from bluesky_prefect.courier import _preparation
from bluesky_prefect.courier._preparation import Preparation
from bluesky_prefect.courier._reminders import Reminders
from tests.services.prefect_process import wait_until


@pytest.fixture
def noted(monkeypatch):
    names = []
    monkeypatch.setattr(_preparation, "first_listed", lambda api, listed, at, note: names.extend(listed))
    monkeypatch.setattr(_preparation, "_PATIENCE_S", 0.05)
    return names


class WorkflowFile:
    """A list of workflows that counts how often it is loaded."""

    def __init__(self, folder):
        self.path, self._count = folder / "beamline.py", folder / "loads"
        self._count.touch()

    def write(self, *names, before=""):
        count = f"with open({str(self._count)!r}, 'a') as loads:\n    loads.write('x')"
        self.path.write_text(f"{count}\n{before}\nworkflows = {list(names)!r}\n")

    @property
    def loads(self):
        return len(self._count.read_text())


@pytest.fixture
def listed(tmp_path):
    return WorkflowFile(tmp_path)


def preparation(where):
    return Preparation(lambda: None, [], [], Reminders(logging.getLogger(), time.monotonic), where)


def idle(prepared, *seen):
    for name in seen:
        prepared.saw(SimpleNamespace(workflow=name, created=1.0))
    prepared.note_listed(None)


def test_a_wrong_name_is_told_as_soon_as_a_slow_server_has_answered(noted, monkeypatch, caplog):
    asked = []

    def missing(names, timeout_s):
        asked.append(names)
        time.sleep(0.3)
        return {"my-workflow/lokal": "there is no my-workflow/lokal"}

    monkeypatch.setattr(_preparation, "missing_deployments", missing)
    prepared = preparation(None)
    prepared.add(["my-workflow/lokal"])
    prepared.look_up()
    assert prepared.is_looking
    wait_until(lambda: not prepared.is_looking)
    prepared.look_up()
    assert "there is no my-workflow/lokal" in caplog.text
    assert len(asked) == 1


def test_a_list_that_is_slow_is_loaded_once_and_noted(listed, noted):
    listed.write("f/one", before="import time; time.sleep(0.5)")
    prepared = preparation(f"{listed.path}:workflows")
    before = threading.active_count()
    for _ in range(5):
        idle(prepared, "f/one")
    assert threading.active_count() <= before + 1
    wait_until(lambda: idle(prepared) or noted)
    assert (noted, listed.loads) == (["f/one"], 1)


def test_a_workflow_beside_the_list_loads_it_once_until_its_file_changes(listed, noted):
    listed.write("f/one")
    prepared = preparation(f"{listed.path}:workflows")
    for _ in range(4):
        idle(prepared, "f/beside")
    assert (noted, listed.loads) == ([], 1)
    idle(prepared, "f/one", "f/beside")
    assert (noted, listed.loads) == (["f/one"], 2)
    listed.write("f/one", "f/beside")
    idle(prepared, "f/beside")
    assert (noted, listed.loads) == (["f/one", "f/beside"], 3)


def test_a_list_that_cannot_be_loaded_is_tried_ever_more_rarely(listed, noted):
    listed.write("f/one", before="raise OSError")
    prepared = preparation(f"{listed.path}:workflows")
    for _ in range(30):
        idle(prepared, "f/one")
    assert listed.loads == 4
    listed.write("f/one")
    wait_until(lambda: idle(prepared) or noted)


def test_a_child_forgets_the_list_that_its_parent_loads(listed, noted):
    listed.write("f/one", before="import time; time.sleep(0.5)")
    prepared = preparation(f"{listed.path}:workflows")
    idle(prepared, "f/one")
    prepared.after_fork()
    wait_until(lambda: idle(prepared) or noted)
    assert listed.loads == 2


def test_the_list_of_a_module_is_as_it_was_imported(listed, noted, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    listed.write("f/one")
    prepared = preparation("beamline:workflows")
    idle(prepared, "f/one")
    listed.write("f/one", "f/new")
    idle(prepared, "f/new")
    assert (noted, listed.loads) == (["f/one"], 1)
    del sys.modules["beamline"]


def test_without_a_list_all_that_sessions_start_is_noted(noted):
    idle(preparation(None), "f/one", "f/two")
    assert noted == ["f/one", "f/two"]
