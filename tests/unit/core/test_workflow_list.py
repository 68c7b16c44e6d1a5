"""The list of a beamline's workflows, and what a session says where its own differs from it."""

import logging
import re
from pathlib import Path

import pytest

from bluesky_prefect import PrefectCallback, Run, Settings, Workflow, WorkflowList, succeeded
from bluesky_prefect.core import (
    DEFAULT_WORKFLOWS,
    ConfigurationError,
    FollowedList,
    load_workflows,
    workflows_of_session,
)
from tests.services.prefect_process import wait_until

LIST = """
from bluesky_prefect import Workflow, WorkflowList

workflows = WorkflowList(
    ["my-workflow/srx", Workflow("tomo/gpu", name="tomo", was="recon")],
    ours=lambda run: run.start.get("beamline_id") == "srx",
)
broken = undefined_name
"""


@pytest.fixture
def hutch_list(tmp_path, monkeypatch):
    (tmp_path / "hutch_list.py").write_text(LIST.replace("broken = undefined_name\n", ""))
    (tmp_path / "broken_list.py").write_text(LIST)
    monkeypatch.syspath_prepend(tmp_path)
    return "hutch_list:workflows"


def test_a_list_keeps_which_runs_are_the_beamline_s(hutch_list):
    listed = load_workflows(hutch_list)
    ours = [listed.ours(Run("u", {"beamline_id": one}, {})) for one in ("srx", "csx", None)]
    assert ours == [True, False, False]
    assert [one.name for one in listed] == ["my-workflow/srx", "tomo"]


@pytest.mark.parametrize(
    ("workflows", "said"),
    [
        ([Workflow("a/b"), Workflow("a/b")], "Two workflows are called 'a/b'"),
        ([Workflow("a/b", was="c/d"), Workflow("c/d")], "is or was the name of two workflows, 'a/b' and 'c/d'"),
        ([Workflow("a/b", was="x"), Workflow("c/d", was="x")], "Take it out of was="),
    ],
)
def test_one_name_is_never_that_of_two_workflows(workflows, said):
    with pytest.raises(ConfigurationError, match=said):
        WorkflowList(workflows)


@pytest.mark.parametrize("was", ["a/b", [""], 3, ["x", None]])
def test_a_former_name_that_is_none_is_refused(was):
    with pytest.raises(ConfigurationError, match="was="):
        Workflow("a/b", was=was)


def test_ours_that_is_not_callable_is_refused():
    with pytest.raises(ConfigurationError, match="ours="):
        WorkflowList("a/b", ours="srx")  # type: ignore[arg-type]  # the mistake under test


def test_a_list_that_cannot_be_imported_is_told_of_whatever_its_module_raises(hutch_list):
    with pytest.raises(ConfigurationError, match=r"broken_list:workflows.*NameError"):
        load_workflows("broken_list:workflows")


def said_at_subscription(caplog, tmp_path, workflows, where):
    with caplog.at_level(logging.WARNING, "bluesky_prefect.core._workflow_list"):
        callback = PrefectCallback(workflows, settings=Settings(state_directory=tmp_path / "state", workflows=where))
    callback.close(0)
    return [one.message for one in caplog.records if one.name == "bluesky_prefect.core._workflow_list"]


def test_a_session_tells_once_how_its_workflows_differ_from_the_list(hutch_list, tmp_path, caplog):
    [said] = said_at_subscription(caplog, tmp_path, ["my-workflow/srx", "extra/local"], hutch_list)
    assert hutch_list in said
    assert "it also starts tomo on the runs of this session" in said
    assert "it does not start extra/local again" in said


def test_another_when_than_that_of_the_list_is_told_at_subscription(hutch_list, tmp_path, caplog):
    session = [Workflow("my-workflow/srx", when=succeeded), Workflow("tomo/gpu", name="tomo")]
    [said] = said_at_subscription(caplog, tmp_path, session, hutch_list)
    assert "another when= for my-workflow/srx" in said


@pytest.mark.parametrize("workflows", [None, ["my-workflow/srx", Workflow("tomo/gpu", name="recon")]])
def test_a_session_with_the_list_itself_says_nothing(hutch_list, tmp_path, caplog, workflows):
    assert said_at_subscription(caplog, tmp_path, workflows, hutch_list) == []


def test_a_session_starts_whatever_the_list_is_like(tmp_path, caplog):
    [said] = said_at_subscription(caplog, tmp_path, "a/b", "no_such_module:workflows")
    assert "no_such_module" in said


def test_a_session_that_names_nothing_starts_my_workflow():
    assert workflows_of_session(None, None) == DEFAULT_WORKFLOWS


HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"
PAGES = ("change-the-list-of-workflows.md", "decide-what-is-started-again.md")
SNIPPETS = [
    code for page in PAGES for code in re.findall(r"```python\n(.*?)```", (HOW_TO / page).read_text(), re.DOTALL)
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_documents_examples_run_as_they_are_written(snippet):
    names = {}
    exec(compile(snippet, "how-to", "exec"), names)
    assert "workflows" not in names or WorkflowList(names["workflows"])


def logged(caplog):
    return [one.message for one in caplog.records if one.name == "bluesky_prefect.core._workflow_list"]


def test_a_list_is_named_by_the_path_of_its_file_too(tmp_path, monkeypatch):
    (tmp_path / "hutch.py").write_text("workflows = ['a/b']\n")
    monkeypatch.chdir(tmp_path)
    where = Settings(workflows="hutch.py:workflows").workflows
    assert where == f"{tmp_path / 'hutch.py'}:workflows", "as it is meant here"
    assert [one.name for one in load_workflows(where)] == ["a/b"]
    with pytest.raises(ConfigurationError, match=r"hutch\.py:nothing"):
        load_workflows("hutch.py:nothing")


def test_a_session_follows_the_file_of_its_list(tmp_path, caplog):
    file = tmp_path / "hutch.py"
    file.write_text("workflows = ['a/b']\n")
    settings = Settings(state_directory=tmp_path / "state", workflows=f"{file}:workflows")
    callback = PrefectCallback(settings=settings)

    def started(uid):
        callback("start", {"uid": uid})
        callback("stop", {"run_start": uid, "exit_status": "success"})
        return {entry.submission.workflow for entry in callback.outbox.entries(run_uid=uid)}

    assert started("first") == {"a/b"}
    file.write_text("workflows = ['a/b', 'mine/local']\n")
    assert started("second") == {"a/b", "mine/local"}
    file.write_text("workflows = ['a/b'\n")
    assert started("third") == {"a/b", "mine/local"}, "no run is without its workflows"
    assert started("fourth") == {"a/b", "mine/local"}
    [said] = logged(caplog)
    assert "hutch.py cannot be run: SyntaxError" in said
    file.unlink()
    assert started("fifth") == {"a/b", "mine/local"}
    file.write_text("workflows = ['new/local']\n")
    assert started("sixth") == {"new/local"}
    callback.close(0)


def test_a_session_with_workflows_of_its_own_keeps_them(tmp_path):
    file = tmp_path / "hutch.py"
    file.write_text("workflows = ['a/b']\n")
    callback = PrefectCallback("c/d", settings=Settings(state_directory=tmp_path, workflows=f"{file}:workflows"))
    file.write_text("workflows = ['a/b', 'mine/local']\n")
    callback("start", {"uid": "u"})
    assert [one.name for one in callback.workflows] == ["c/d"]
    callback.close(0)


def test_a_list_that_hangs_holds_up_one_run_only_and_is_followed_later(tmp_path, caplog):
    file, go_on = tmp_path / "workflows.py", tmp_path / "go-on"
    file.write_text("workflows = ['a/b']\n")
    followed = FollowedList(f"{file}:workflows")
    waits = f"import time\nfrom pathlib import Path\nwhile not Path({str(go_on)!r}).exists():\n    time.sleep(0.01)\n"
    file.write_text(f"{waits}workflows = ['c/d']\n")
    assert followed.changed() is None
    assert followed.changed() is None
    assert caplog.text.count("is not read yet") == 1
    go_on.touch()
    wait_until(lambda: (listed := followed.changed()) and [one.name for one in listed] == ["c/d"])
    assert followed.changed() is None


def test_a_session_at_a_beamline_starts_the_deployment_called_after_it():
    assert [one.name for one in workflows_of_session(None, None, beamline="tst")] == ["my-workflow/tst"]
