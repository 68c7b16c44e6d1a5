"""What names a version names the same one, and what is said of the package is tested."""

import os
import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import bluesky_prefect

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASES = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGELOG, re.MULTILINE)
PYTHON = "Programming Language :: Python :: "


def test_version_citation_and_changelog_agree():
    (unreleased, _), (version, date), *_ = RELEASES
    assert unreleased == "Unreleased"
    assert (version, date) == (bluesky_prefect.__version__, str(CITATION["date-released"]))
    assert CITATION["version"] == version


def test_each_release_of_the_changelog_has_a_date_and_an_address():
    assert all(date for _, date in RELEASES[1:])
    assert [version for version, _ in RELEASES] == re.findall(r"^\[(.+?)\]: https://", CHANGELOG, re.MULTILINE)


def test_sections_of_the_changelog_are_those_of_its_format():
    sections = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("key", ["cff-version", "message", "title", "authors"])
def test_the_citation_has_what_its_format_requires(key):
    assert CITATION[key]


def test_the_citation_is_of_this_project():
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["title"] == PROJECT["name"]
    assert CITATION["abstract"] == PROJECT["description"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Repository"]


def test_each_python_of_the_classifiers_is_one_that_ci_runs():
    named = {one.removeprefix(PYTHON) for one in PROJECT["classifiers"] if one.startswith(f"{PYTHON}3.")}
    # CI runs everything on its own interpreter, and the rest by 'make interpreters'.
    own = "{}.{}".format(*sys.version_info) if os.environ.get("CI") else PROJECT["requires-python"].removeprefix(">=")
    further = re.search(r"^INTERPRETERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named == {own, *further[1].split()}


def test_what_ci_froze_can_be_installed_with_the_oldest_python_that_is_promised():
    frozen = (ROOT / ".ci" / "constraints.txt").read_text().lower().splitlines()
    here = [one for one in distributions() if f"{one.name}=={one.version}".lower() in frozen]
    oldest = f"{PROJECT['requires-python'].removeprefix('>=')}.0"
    wanted = {one.name: one.metadata.get("Requires-Python") or "" for one in here}
    assert {name: asked for name, asked in wanted.items() if oldest not in SpecifierSet(asked)} == {}
