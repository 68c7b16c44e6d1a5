"""The documents are true: their examples run, and the tests and files that they name exist."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer
from bluesky import RunEngine

from bluesky_prefect import PrefectCallback, Settings
from bluesky_prefect.cli._app import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "profile_collection" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_EXAMPLES = [ROOT / "README.md", ROOT / "docs" / "how-to" / "start-your-own-workflows.md"]
EXAMPLES = [code for page in WITH_EXAMPLES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
EXAMPLES = [code for code in EXAMPLES if "PrefectCallback" in code]
# What else names commands and settings.
FILES = [*PAGES, *(file for file in (ROOT / "deploy").rglob("*") if file.is_file())]
GUARANTEES = (ROOT / "docs" / "reference" / "guarantees.md").read_text()

# bluesky's RunEngine leaves its event loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_is_written(example, tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_prefect.callback._callback.get_settings", lambda: Settings(state_directory=tmp_path))
    subscribed = []

    class Engine(RunEngine):
        def subscribe(self, func, name="all"):
            subscribed.append(func)
            return super().subscribe(func, name)

    exec(compile(example, "README.md", "exec"), {"RE": Engine(context_managers=[])})
    [callback] = [one for one in subscribed if isinstance(one, PrefectCallback)]
    callback("start", {"uid": "u", "plan_name": "tomo_flyscan"})
    callback("resource", {"run_start": "u", "root": "/data", "resource_path": "x.h5"})
    callback("stop", {"run_start": "u", "exit_status": "success"})
    assert len(callback.outbox.entries(state="waiting")) == len(callback.workflows)
    callback.close()


def test_there_are_examples():
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`(test_\w+\.py)", GUARANTEES))))
def test_a_file_of_tests_that_proves_a_guarantee_exists(file):
    assert list((ROOT / "tests").rglob(file))


@pytest.mark.parametrize(("file", "test"), sorted(set(re.findall(r"`(test_\w+\.py)::(\w+)`", GUARANTEES))))
def test_a_test_that_proves_a_guarantee_exists(file, test):
    assert any(f"def {test}(" in path.read_text() for path in (ROOT / "tests").rglob(file))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not gone


def unknown_options(words):
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    return set(re.findall(r"(?<!\S)--[a-z-]+", " ".join(words))) - known


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_each_option_and_setting_that_is_named_is_one(file):
    text = file.read_text().replace("\\\n", " ")
    lines = re.findall(r"bluesky-prefect((?: +[^\s`|;,)]+)+)", text)
    assert not {line: unknown for line in lines if (unknown := unknown_options(line.split()))}
    settings = {f"BLUESKY_PREFECT_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"BLUESKY_PREFECT_[A-Z_]*[A-Z]", text)) <= settings


def anchors(page):
    """Return the names that the repository's pages give to their headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_to_a_heading_leads_to_one(page):
    links = re.findall(r"\]\(([^)#\s:]*)#([^)]+)\)", page.read_text())
    gone = [(link, name) for link, name in links if name not in anchors(page.parent / link if link else page)]
    assert not gone


@pytest.mark.parametrize("page", [one for one in PAGES if one.parent.parent.name == "docs"], ids=lambda page: page.name)
def test_each_page_is_in_the_index_of_its_section(page):
    assert page.name == "index.md" or f"({page.name})" in (page.parent / "index.md").read_text()


def test_the_first_line_of_a_docstring_is_a_verb_or_a_noun():
    question = re.compile(r'"""(What|How|Whether|Who|Which|Where|Why|When)\b.*')
    found = {path.name: question.findall(path.read_text()) for path in (ROOT / "src").rglob("*.py")}
    assert not {name: lines for name, lines in found.items() if lines}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text()) <= 6_000


def test_the_profile_can_be_linked_into_a_fresh_home(tmp_path):
    page = (ROOT / "profile_collection" / "README.md").read_text()
    command = re.search(r"`(mkdir -p [^`]*ln -s[^`]*)`", page)[1]
    for _ in range(2):
        subprocess.run(["sh", "-c", command], cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, check=True)
    assert (tmp_path / ".ipython" / "profile_beamline" / "startup" / "00-run-engine.py").exists()
