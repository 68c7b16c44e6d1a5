"""Recorded documents of every shape that event-model knows, old and new, replayed through the callback."""

import json
from itertools import chain, zip_longest
from pathlib import Path

import event_model
import pytest

from bluesky_prefect import PrefectCallback, Settings, Workflow

STREAMS = Path(__file__).parents[2] / "data" / "streams"
# How many files each run has, by its plan.
FILES = {
    "resource_datum": {"count": 1},
    "resource_datum_pages": {"count": 1},
    "resource_without_run": {"count": 1},
    "interleaved": {"inner": 2, "outer": 3},
    "flyer": {"fly": 0},
    "stream_datum": {"fly": 2},
    "scan": {"scan": 0},
    "scan_pages": {"scan": 0},
}
SHAPES = {
    "resource_datum": {"resource", "datum", "event"},
    "resource_datum_pages": {"resource", "datum_page", "event_page"},
    "resource_without_run": {"resource", "datum", "event"},
    "interleaved": {"resource", "datum", "event"},
    "flyer": {"event_page"},
    "stream_datum": {"stream_resource", "stream_datum"},
    "scan": {"event"},
    "scan_pages": {"event_page"},
}


def recorded(name):
    return [tuple(json.loads(line)) for line in (STREAMS / f"{name}.jsonl").read_text().splitlines()]


def files_named_by(documents):
    """Return the files of each run as its own resource documents name them."""
    files = {document["uid"]: [] for name, document in documents if name == "start"}
    for name, document in documents:
        run = document.get("run_start", next(iter(files)))
        if name == "resource":
            files[run].append(f"file://localhost{document['root']}/{document['resource_path']}")
        elif name == "stream_resource":
            files[run].append(document["uri"])
    return files


@pytest.fixture
def replayed(tmp_path):
    """Replay documents through a callback; return the submissions by run."""
    callback = PrefectCallback(
        Workflow("a/b", parameters=lambda run: {"files": list(run.files)}),
        settings=Settings(state_directory=tmp_path / "state"),
    )

    def replayed(documents):
        for name, document in documents:
            callback(name, document)
        entries = callback.outbox.entries()
        assert len({entry.run_uid for entry in entries}) == len(entries)
        return {entry.run_uid: entry.submission for entry in entries}

    yield replayed
    callback.close()


@pytest.mark.parametrize("name", FILES)
def test_the_recorded_documents_are_of_the_shapes_that_event_model_describes(name):
    documents = recorded(name)
    assert {kind for kind, _ in documents} == {"start", "descriptor", *SHAPES[name], "stop"}
    for kind, document in documents:
        event_model.schema_validators[event_model.DocumentNames[kind]].validate(document)


@pytest.mark.parametrize("name", FILES)
def test_each_recorded_run_is_submitted_once_with_its_documents_and_files(replayed, name):
    documents = recorded(name)
    submissions = replayed(documents)
    assert {uid: submission.parameters["files"] for uid, submission in submissions.items()} == files_named_by(documents)
    plans = {submission.run.plan_name: submission for submission in submissions.values()}
    assert {plan: len(submission.parameters["files"]) for plan, submission in plans.items()} == FILES[name]
    for kind in ("start", "stop"):
        kept = {json.dumps(getattr(submission, kind), sort_keys=True) for submission in submissions.values()}
        assert kept == {json.dumps(document, sort_keys=True) for what, document in documents if what == kind}


def test_runs_of_all_shapes_at_once_are_told_apart(replayed):
    streams = [recorded(name) for name in ("resource_datum", "interleaved", "flyer", "stream_datum", "scan_pages")]
    in_turn = [document for document in chain(*zip_longest(*streams)) if document is not None]
    expected = dict(chain(*(files_named_by(stream).items() for stream in streams)))
    assert {uid: submission.parameters["files"] for uid, submission in replayed(in_turn).items()} == expected
