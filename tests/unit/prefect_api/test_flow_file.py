"""Flows in files: which one is meant, and what is said where there is none."""

import pytest

from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.prefect_api import flow_in_file, unfilled_parameters

FLOWS = """
from prefect import flow, task
from bluesky_prefect.flows import export

@flow(name="my-analysis")
def my_analysis(ref, energy, threshold=3): ...

def plain(ref): ...

@task
def step(ref): ...
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(FLOWS)
    return tmp_path / "mine.py"


def test_the_flow_of_a_file_is_found_by_its_name_or_because_it_is_alone(file):
    for where in (f"{file}:my_analysis", str(file)):
        flow, entrypoint = flow_in_file(where)
        assert (flow.name, entrypoint) == ("my-analysis", f"{file}:my_analysis")


def test_a_parameter_that_no_run_fills_is_known(file):
    assert unfilled_parameters(flow_in_file(str(file))[0]) == ["energy"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_anlysis", r"mine\.py has no 'my_anlysis'. Its flows: my_analysis\."),
        ("plain", "'plain' in .*mine.py is a function and no flow: put @flow above it"),
        ("step", "'step' in .*mine.py is a Task and no flow"),
        ("a b", "names no flow: write my_file.py:my_function"),
    ],
)
def test_a_name_that_is_no_flow_is_told_of_in_one_line(file, name, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        flow_in_file(f"{file}:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1\n", r"has no flow; .*Its flows: none\."),
        (FLOWS + "\n@flow\ndef other(ref): ...\n", r"has several flows; .*Its flows: my_analysis, other\."),
        ("import nothing_like_it\n", r"cannot be run: ModuleNotFoundError: .* \(line 1\)"),
    ],
)
def test_a_file_without_the_one_flow_is_told_of(file, content, said):
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=said):
        flow_in_file(str(file))


@pytest.mark.parametrize("where", ["no_such.py:f", "notes.txt:f", "my_module:f"])
def test_what_is_no_file_of_python_is_told_of(where):
    with pytest.raises(ConfigurationError, match=r"There is no file .*no_such\.py|names no flow"):
        flow_in_file(where)
