"""The file of workflows: made once, added to, and never broken by that."""

import stat
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from bluesky_prefect.core import ConfigurationError, load_workflows
from bluesky_prefect.stack import WORKFLOWS, add_to_list
from bluesky_prefect.stack._info import StackPaths, listed_in
from bluesky_prefect.stack._workflow_file import make_workflow_file

SHIPPED = [workflow.name for workflow in WORKFLOWS]


@pytest.fixture
def listed(tmp_path):
    make_workflow_file(tmp_path / "workflows.py")
    return f"{tmp_path / 'workflows.py'}:workflows"


def names(listed):
    return [workflow.name for workflow in load_workflows(listed)]


def test_it_holds_the_stack_s_workflows_and_is_never_written_again(listed, tmp_path):
    assert names(listed) == SHIPPED
    (tmp_path / "workflows.py").write_text("workflows = ['mine/local']\n")
    make_workflow_file(tmp_path / "workflows.py")
    assert names(listed) == ["mine/local"]


def test_a_deployment_is_added_once(listed, tmp_path):
    before = stat.S_IMODE((tmp_path / "workflows.py").stat().st_mode)
    assert add_to_list(listed, "mine/local")
    assert not add_to_list(listed, "mine/local")
    assert names(listed) == [*SHIPPED, "mine/local"]
    assert stat.S_IMODE((tmp_path / "workflows.py").stat().st_mode) == before == 0o600


def test_what_people_wrote_into_it_stays(listed, tmp_path):
    path = tmp_path / "workflows.py"
    path.write_text("from bluesky_prefect import Workflow\nworkflows = ['a/b']  # ours")
    assert add_to_list(listed, "mine/local")
    assert path.read_text().startswith("from bluesky_prefect import Workflow\nworkflows = ['a/b']  # ours\n")
    assert names(listed) == ["a/b", "mine/local"]


@pytest.mark.parametrize("content", ["workflows = ('a/b',)\n", "workflows = ['a/b']\n"])
def test_a_list_that_cannot_be_added_to_is_left_as_it_was(listed, tmp_path, content):
    path = tmp_path / "workflows.py"
    path.write_text(content)  # a tuple; and a file that does not know Workflow
    with pytest.raises(ConfigurationError, match=r"Nothing was added.*workflows\.append\(Workflow\(\"mine/local\"\)\)"):
        add_to_list(listed, "mine/local")
    assert path.read_text() == content


def test_a_list_that_cannot_be_added_to_is_named_as_it_is(listed, tmp_path):
    path = tmp_path / "workflows.py"
    path.write_text("workflows = ('a/b',)\n")
    with pytest.raises(ConfigurationError, match=rf": {path} cannot be run: .* Put the workflow into the list by hand"):
        add_to_list(listed, "mine/local")


def test_two_who_add_at_once_are_both_on_the_list(listed):
    added = [f"flow-{number}/local" for number in range(8)]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(partial(add_to_list, listed), added)) == [True] * 8
    assert sorted(names(listed)) == sorted([*SHIPPED, *added])


def test_a_link_to_the_list_stays_a_link(listed, tmp_path):
    link = tmp_path / "elsewhere" / "list.py"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "workflows.py")
    assert add_to_list(f"{link}:workflows", "my-analysis/local")
    assert link.is_symlink()
    assert names(listed) == [*SHIPPED, "my-analysis/local"]


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o666, 0o755), (0o600, 0o777), (0o620, 0o710)])
def test_a_list_that_others_may_write_to_is_not_run(tmp_path, caplog, file_mode, folder_mode):
    paths = StackPaths(tmp_path / "state")
    paths.root.mkdir(mode=0o700)
    make_workflow_file(paths.workflows)
    assert listed_in(paths) == f"{paths.workflows}:workflows"
    paths.workflows.chmod(file_mode)
    paths.root.chmod(folder_mode)
    assert listed_in(paths) == ""
    assert f"others may write to it. To use it: chmod go-w {paths.workflows}" in caplog.text


def test_in_a_closed_directory_the_mode_of_the_list_does_not_matter(tmp_path, caplog):
    paths = StackPaths(tmp_path / "state")
    paths.root.mkdir(mode=0o700)
    make_workflow_file(paths.workflows)
    paths.workflows.chmod(0o664)
    assert listed_in(paths) == f"{paths.workflows}:workflows"

    elsewhere = tmp_path / "list.py"
    paths.workflows.rename(elsewhere)
    paths.workflows.symlink_to(elsewhere)
    assert listed_in(paths) == ""
    assert f"chmod go-w {elsewhere}" in caplog.text
    elsewhere.unlink()
    assert listed_in(paths) == ""
    assert "fix the link" in caplog.text
