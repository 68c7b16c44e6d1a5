"""What the outbox of this machine knows of a workflow on a run, even where it cannot be read."""

import sqlite3
from contextlib import closing

import pytest

from bluesky_prefect import Outbox, Workflow
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.reconciliation._machine_outbox import MachineOutbox

WORKFLOW = Workflow("flow/local", name="new", was="old")


@pytest.fixture
def outbox(tmp_path):
    with closing(Outbox(tmp_path / "outbox.sqlite")) as outbox:
        yield outbox


def put(outbox, name):
    outbox.put(Submission(submission_key("run:1", name), name, WORKFLOW.deployment, "run:1"))


@pytest.mark.parametrize("name", ["new", "old"])
@pytest.mark.parametrize("readable", [True, False])
def test_what_waits_keeps_the_name_of_its_key_even_if_a_newer_version_wrote_it(outbox, name, readable):
    put(outbox, name)
    if not readable:
        with closing(sqlite3.connect(outbox.path)) as connection, connection:
            connection.execute("UPDATE entries SET submission = ?", (b'{"key": "x", "v3": {}}',))
    assert MachineOutbox(outbox).name_of("run:1", WORKFLOW) == name


def test_what_it_does_not_hold_has_no_name_there(outbox):
    put(outbox, "another")
    assert MachineOutbox(outbox).name_of("run:1", WORKFLOW) is None
    assert MachineOutbox(None).name_of("run:1", WORKFLOW) is None
