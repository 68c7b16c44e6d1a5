"""Files that people write, run as they are at this moment."""

import pytest

from bluesky_prefect.core import ConfigurationError, run_file


def test_a_file_runs_as_it_is_now_and_finds_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("value = 3\n")
    path = tmp_path / "list.py"
    path.write_text("from beside_it import value\n")
    assert run_file(path).value == 3
    path.write_text("from beside_it import value as seen; value = 4\n")
    assert run_file(path).value == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import no_such_module\n", r"ModuleNotFoundError: No module named 'no_such_module' \(line 1\)"),
        ("def f():\n    return undefined\n\nf()\n", r"NameError: name 'undefined' is not defined \(line 2\)"),
        ("x = 1\ny = (\n", r"SyntaxError: .*line 2"),
        ("open('no-such-file')\n", r"FileNotFoundError: .*no-such-file.* \(line 1\)"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_of_with_its_line(tmp_path, content, said):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"mine\.py cannot be run: {said}") as caught:
        run_file(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.py cannot be read: No such file"):
        run_file(tmp_path / "none.py")


def test_a_file_that_ends_the_process_is_told_of_as_any_other(tmp_path):
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ConfigurationError, match=r"cannot be run: SystemExit.*\(line 2\)"):
        run_file(tmp_path / "script.py")
