"""What is handed to Prefect is told apart by its key, for ever."""

from dataclasses import replace

import pytest

from bluesky_prefect.core import Submission, key_parts, submission_key


def test_the_same_run_workflow_and_generation_always_give_the_same_key():
    assert submission_key("uid", "flow/one") == submission_key("uid", "flow/one", generation=0) == "uid:flow/one"
    assert submission_key("uid", "flow/one", generation=2) == submission_key("uid", "flow/one", generation=2)


def test_every_other_run_workflow_or_generation_gives_another_key():
    keys = {submission_key(uid, workflow, n) for uid in ("u", "v") for workflow in ("a/b", "c/d") for n in range(12)}
    assert len(keys) == 48


def test_no_uid_is_the_key_of_another_run():
    keys = [
        submission_key("u", "w"),
        submission_key("u", "w", generation=1),
        submission_key("u#1", "w"),
        submission_key("u%231", "w"),
        submission_key("u", "v:w"),
        submission_key("u:v", "w"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_submission_written_before_there_were_generations_is_still_read():
    text = (
        b'{"key": "u:a/b", "workflow": "a/b", "deployment": "a/b", "run_uid": "u", '
        b'"start": {}, "stop": {}, "parameters": null}'
    )
    assert Submission.from_json(text) == Submission("u:a/b", "a/b", "a/b", "u")


def test_what_is_written_is_read_back():
    submission = Submission("k", "w", "a/b", "u", {"x": 1}, {"y": [2]}, {"p": 3}, overrides={"q": 4}, generation=5)
    submission = replace(submission, notify=("failure:slack/mon-beamline",))
    assert Submission.from_json(submission.to_json()) == submission


@pytest.mark.parametrize("uid", ["c0ffee", "a:b#1%3A", "%25", "ü"])
@pytest.mark.parametrize("generation", [0, 1, 12])
def test_a_key_can_be_taken_apart_again(uid, generation):
    key = submission_key(uid, "flow/with:colon#2", generation)
    assert key_parts(key) == (uid, "flow/with:colon#2", generation)


@pytest.mark.parametrize("key", ["", "no-colon", ":workflow", "uid#x:workflow"])
def test_what_is_no_key_is_none(key):
    assert key_parts(key) is None
