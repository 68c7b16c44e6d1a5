"""What a person does in Prefect's UI, in a real browser: for the pictures of the documents, and for the tests."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

BROWSER = "/usr/bin/chromium"
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_SIZE = {"width": 1280, "height": 1000}
_STATE = re.compile("^(Completed|Unavailable|Failed|Crashed|Running|Pending|Scheduled|Late)$")
# A machine with other things to do.
_PATIENCE_MS = 60_000
# The chart above the list of runs is drawn with an animation.
_ANIMATION_MS = 2_000
_PIXELS = """
async image => {
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const drawing = canvas.getContext("2d");
    drawing.drawImage(image, 0, 0);
    const values = new Uint32Array(drawing.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return [image.naturalWidth, image.naturalHeight, new Set(values).size];
}
"""

_REPLACE = """
names => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        for (const [name, instead] of names)
            texts.currentNode.data = texts.currentNode.data.replaceAll(name, instead);
}
"""
_MADE_BY_MARKUP = "a, img, em, strong, code, del, ul, ol, h1, h2, hr, blockquote, table"
_CELLS = f"""
() => [...document.querySelectorAll("td")].map(
    cell => [cell.textContent, cell.querySelectorAll("{_MADE_BY_MARKUP}").length])
"""


@dataclass(frozen=True)
class Pixels:
    """What an image that was drawn consists of: width and height in pixels, and how many colours."""

    width: int
    height: int
    colours: int


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and how many elements it has that only markup makes."""

    text: str
    elements: int


@contextmanager
def open_browser(executable: str | Path = BROWSER) -> Iterator[Page]:
    """Open a page in a browser of its own, until the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_OPTIONS)
        page = browser.new_page(viewport=_SIZE)
        page.set_default_timeout(_PATIENCE_MS)
        try:
            yield page
        finally:
            browser.close()


def sign_in(page: Page, link: str) -> None:
    """Open the link that the local stack has printed for a browser, and wait for the flow runs."""
    page.goto(link)
    page.wait_for_url(re.compile("/runs([?]|$)"))
    # The newer UI forgets the password if it is left while it tries it.
    page.get_by_text("Event Feed").first.wait_for()


class PrefectUi:
    """One of Prefect's two UIs.

    Parameters
    ----------
    page : Page
        The browser's.
    url : str
        Where the UI is.
    pictures : Path
        Directory for pictures of the page.
    version : {1, 2}
        The older UI, or the newer one, which all links lead to.

    Attributes
    ----------
    url : str
        Where it is.
    clicks : int
        How often something was clicked.
    """

    def __init__(self, page: Page, url: str, pictures: Path, *, version: int = 2) -> None:
        self._page = page
        self.url = url
        self._root = url if version == 1 else f"{url}/v{version}"
        self._pictures = pictures
        self.version = version
        self.clicks = 0

    def open(self, url: str) -> None:
        """Open an address that somebody was told."""
        self._page.goto(url)

    def see(self, text: str) -> None:
        """Wait until the page shows a text."""
        self._page.get_by_text(text).first.wait_for()

    def open_page(self, url: str) -> None:
        """Open an address of the newer UI in this one."""
        self.open(url.replace(f"{self.url}/v2", self._root, 1))

    def open_runs(self) -> None:
        """Show the list of flow runs."""
        self.open(f"{self._root}/runs")
        self._rows.first.wait_for()

    def search(self, text: str) -> list[str]:
        """Search by the name of the flow run; return the names that are listed then."""
        self._page.get_by_placeholder("Search by flow run name").last.fill(text)
        return self._listed(text)

    def filter_by_tag(self, tag: str) -> list[str]:
        """Show the flow runs with a tag; return the names that are listed then."""
        if self.version == 1:
            self._page.get_by_text("All tags").last.click()
            self._page.keyboard.type(tag)
            self._page.get_by_role("option").filter(has=self._page.get_by_text(tag, exact=True)).first.click()
            self._page.keyboard.press("Escape")
        else:
            self._page.get_by_placeholder("All tags").fill(tag)
            self._page.keyboard.press("Enter")
        return self._listed(tag)

    def hide_subflows(self) -> None:
        """Leave the flow runs in the list that are within no other."""
        self._page.get_by_text("Hide subflows").click()
        expect(self._rows.filter(has_text="export")).to_have_count(0, timeout=_PATIENCE_MS)

    def open_flow_run(self, name: str) -> None:
        """Go from the list to a flow run."""
        self._click(self._page.get_by_role("link", name=name, exact=True).first)
        self._tab("Job Variables").wait_for()

    def state(self) -> str:
        """Return the state that the page of a flow run shows for it."""
        return self._page.get_by_text(_STATE).first.inner_text()

    def subflows(self) -> dict[str, str]:
        """Return the flows within a flow run, with their states."""
        self._click(self._tab("Subflow Runs"))
        self._rows.first.wait_for()
        flows = {}
        for row in self._rows.all():
            row.get_by_role("link").nth(1).wait_for()  # before that, the first is the flow run's
            expect(row.get_by_role("link").first).not_to_be_empty(timeout=_PATIENCE_MS)
            flows[row.get_by_role("link").first.inner_text()] = row.get_by_text(_STATE).first.inner_text()
        return flows

    def open_artifact(self, key: str) -> None:
        """Go from a flow run to its artifact."""
        self._click(self._tab("Artifacts"))
        self._click(self._page.get_by_role("link", name=key).first)

    def pixels(self, shows: str = "the run, plotted") -> Pixels:
        """Draw the picture of the page that shows this, and return what it consists of."""
        image = self._page.locator(f"img[src^='data:image/'][alt='{shows}']").first
        image.wait_for()
        return Pixels(*image.evaluate(_PIXELS))

    def cells(self) -> list[Cell]:
        """Return the cells of a table artifact, of all its pages."""
        self._page.locator("td").first.wait_for()
        cells = [Cell(*cell) for cell in self._page.evaluate(_CELLS)]
        further = self._page.get_by_role("button", name="Go to next page")
        while self.version == 2 and further.is_enabled():
            further.click()
            cells += [Cell(*cell) for cell in self._page.evaluate(_CELLS)]
        return cells

    def replace(self, names: Mapping[str, str]) -> None:
        """Show other names in place of these, such as those of folders on this machine."""
        self._page.evaluate(_REPLACE, list(names.items()))

    def keep(self, name: str, height: int = _SIZE["height"]) -> Path:
        """Take a picture of the page, of this height [pixels]."""
        if height != _SIZE["height"]:  # a page that is laid out anew may lose the next click
            self._page.set_viewport_size({**_SIZE, "height": height})
        self._page.wait_for_timeout(_ANIMATION_MS)
        path = self._pictures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._page.screenshot(path=path)
        return path

    @property
    def _rows(self) -> Locator:
        """The flow runs that are listed, in either UI."""
        return self._page.locator(".state-list-item, li:has(> [class*='bg-card'])")

    def _listed(self, text: str) -> list[str]:
        """Wait until every flow run that is listed shows a text; return their names."""
        expect(self._rows.filter(has_not_text=text)).to_have_count(0, timeout=_PATIENCE_MS)
        self._rows.first.wait_for()
        return [row.get_by_role("link").nth(1).inner_text() for row in self._rows.all()]

    def _tab(self, name: str) -> Locator:
        return self._page.get_by_role("tab", name=name).or_(self._page.get_by_text(name, exact=True)).last

    def _click(self, what: Locator) -> None:
        what.click()
        self.clicks += 1
