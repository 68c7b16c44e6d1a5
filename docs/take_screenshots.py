"""Take the README's pictures of the Prefect UI from a running local stack, in a real browser.

Needs Chromium. Leave a stack up first, ``bluesky-prefect demo --keep``, then: ``python -m docs.take_screenshots``.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from docs.prefect_ui import BROWSER, PrefectUi, open_browser, sign_in

from bluesky_prefect.core import get_settings
from bluesky_prefect.stack import LocalStack, sign_in_url

IMAGES = Path(__file__).parent / "images"


def flow_runs(ui: PrefectUi) -> None:
    """Show the list of runs with the scans' flow runs in it."""
    ui.open_runs()
    ui.hide_subflows()
    ui.keep("prefect-ui")


def plot(ui: PrefectUi, url: str) -> None:
    """Show the page of a scan with its plot, whose address the demo has printed."""
    ui.open(url)
    ui.pixels()
    ui.keep("run-summary")


def main() -> None:
    """Take the pictures of the stack that is running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default=BROWSER, help="path of the browser")
    arguments = parser.parse_args()
    info = LocalStack(get_settings()).find()
    if info is None:
        parser.error("no local stack is running; start one with: bluesky-prefect demo --keep")
    demo = subprocess.run(
        [sys.executable, "-m", "bluesky_prefect", "demo", "--plans", "2"], capture_output=True, text=True, check=True
    )
    [*_, url] = re.findall(r"^ +scan-\S+  (http\S+)", demo.stdout, re.MULTILINE)
    with open_browser(arguments.browser) as page:
        sign_in(page, sign_in_url(info))
        ui = PrefectUi(page, info.prefect_ui_url, IMAGES)
        flow_runs(ui)
        plot(ui, url)


if __name__ == "__main__":
    main()
