"""Take the README's pictures of the Prefect UI from a running local stack, in a real browser.

Needs the extra "screenshots" and Chromium. Leave a stack up first: ``bluesky-prefect demo --keep``.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from bluesky_prefect.settings import get_settings
from bluesky_prefect.stack import LocalStack

IMAGES = Path(__file__).parent / "images"
BROWSER_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIZE = {"width": 1280, "height": 1000}


def flow_runs(page: Page, ui_url: str) -> None:
    """Show the list of runs with the scans' flow runs in it."""
    page.goto(f"{ui_url}/runs", wait_until="networkidle")
    page.get_by_text("Hide subflows").click()
    page.get_by_text("scan-").first.wait_for(timeout=30_000)
    page.wait_for_timeout(2_000)  # the chart above the list is drawn with an animation
    page.screenshot(path=IMAGES / "prefect-ui.png")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default="/usr/bin/chromium", help="path of the browser")
    arguments = parser.parse_args()
    info = LocalStack(get_settings()).find()
    if info is None:
        parser.error("no local stack is running; start one with: bluesky-prefect demo --keep")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=BROWSER_OPTIONS)
        flow_runs(browser.new_page(viewport=SIZE), info.prefect_ui_url)
        browser.close()


if __name__ == "__main__":
    main()
