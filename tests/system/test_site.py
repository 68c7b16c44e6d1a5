"""The site is made of the pages and of the code, and read without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.generated_reference import commands
from docs.prefect_ui import BROWSER, open_browser

from bluesky_prefect.core import Settings
from bluesky_prefect.metrics._collector import METRICS
from tests.conftest import missing_service

ROOT = Path(__file__).parents[2]
NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1400, "height": 1000}

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Make the site; a warning, such as of a link that leads nowhere, is an error."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html"]
    made = subprocess.run([*command, ROOT / "docs", directory], capture_output=True, text=True, timeout=150)
    assert made.returncode == 0, made.stderr
    return directory


@pytest.fixture
def browser():
    if not Path(BROWSER).exists():
        missing_service("Chromium, with: apt-get install chromium")
    with open_browser() as page:
        yield page


def words(page):
    return set(re.findall(r"\w+", re.sub(r"<[^>]*>", " ", page.read_text())))


def test_each_setting_and_metric_is_in_the_reference(site):
    settings = {f"BLUESKY_PREFECT_{name.upper()}" for name in Settings.model_fields}
    assert settings - words(site / "reference" / "settings.html") == set()
    assert set(METRICS) - words(site / "reference" / "metrics.html") == set()


def test_each_option_of_a_command_is_in_the_reference(site):
    page = re.sub(r"<[^>]*>", "", (site / "reference" / "command-line.html").read_text())
    options = set(re.findall(r"--[a-z-]+", "".join(commands())))
    assert len(options) > 30
    assert not [option for option in options if option not in page]


def test_each_public_name_is_in_the_reference(site):
    import bluesky_prefect

    page = (site / "reference" / "api.html").read_text()
    documented = set(re.findall(r'id="bluesky_prefect\.(\w+)"', page))
    assert documented >= set(bluesky_prefect.__all__) - {"__version__"}


def test_the_search_finds_a_page_without_a_network(site, browser):
    asked = []
    browser.on("request", lambda request: asked.append(request.url))
    browser.goto(f"file://{site}/search.html?q=beamlines")
    browser.locator("#search-results a", has_text="Many beamlines on one Prefect").first.click()
    browser.get_by_role("heading", name="Many beamlines on one Prefect").wait_for()
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_no_page_is_wider_than_the_screen(site, browser, size):
    browser.set_viewport_size(size)
    too_wide = []
    for page in sorted(site.rglob("*.html")):
        browser.goto(f"file://{page}")
        if browser.evaluate("document.documentElement.scrollWidth") > size["width"]:
            too_wide.append(str(page.relative_to(site)))
    assert too_wide == []
