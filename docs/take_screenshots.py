"""Take the README's pictures of the Prefect UI from a running local stack, in a real browser.

Needs Chromium. Leave a stack up first, ``bluesky-prefect demo --keep``, then: ``python -m docs.take_screenshots``.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from docs.prefect_ui import BROWSER, PrefectUi, open_browser

from bluesky_prefect.settings import get_settings
from bluesky_prefect.stack import LocalStack

IMAGES = Path(__file__).parent / "images"


def take(ui: PrefectUi, plot_url: str) -> None:
    """Take the pictures.

    Parameters
    ----------
    ui : PrefectUi
        Of a stack with some scans.
    plot_url : str
        The page with the plot of a scan.
    """
    ui.open_runs()
    ui.hide_subflows()
    ui.keep("prefect-ui")
    ui.open(plot_url)
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
    [*_, plot_url] = re.findall(r"its plot: (\S+)", demo.stdout)
    with open_browser(arguments.browser) as page:
        take(PrefectUi(page, info.prefect_ui_url, IMAGES), plot_url)


if __name__ == "__main__":
    main()
