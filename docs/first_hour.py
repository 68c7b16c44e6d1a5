"""Record the tutorial of the first hour again: type its commands, write down what they print, take its pictures.

The page is the script. Commands follow ``$`` in blocks of ``console``, and ``In [n]:`` in blocks of ``ipython``; all
other lines of a block are replaced by what is printed, which ends with the exit code if that is not 0. ``^C`` under a
command is typed a moment after it. Pictures are taken where the page shows them, of what it has printed a link to. It
all happens in an empty home directory, on a stack of its own. Needs Chromium.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pexpect
from docs.prefect_ui import BROWSER, PrefectUi, open_browser, sign_in

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorials" / "first-hour.md"
IMAGES = ROOT / "docs" / "images"
BIN = Path(sys.executable).parent
WIDTH = 118
LONGEST_S = 300
MOMENT_S = 1.0
# A flow run has begun by then, and has not ended.
UNDER_WAY_S = 0.8
_BLOCK = re.compile(r"^```(console|ipython)\n(.*?)^```$|^!\[[^]]*\]\(\S*/([\w-]+)\.png\)$", re.MULTILINE | re.DOTALL)
_INPUT = {"console": re.compile(r"^\$ (.*)$"), "ipython": re.compile(r"^In \[\d+\]: (.*)$")}
_PROMPT = re.compile(r"In \[(\d+)\]: ")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What IPython itself says first.
_BANNER = re.compile(r"^(Python 3|Type 'copyright|IPython \d|Tip: ).*\n", re.MULTILINE)
_INTERRUPT = "^C"


def inputs(kind: str, block: str) -> list[tuple[str, bool]]:
    """Return what is typed in a block, and whether Ctrl-C follows."""
    typed: list[tuple[str, bool]] = []
    for line in block.splitlines():
        if found := _INPUT[kind].match(line):
            typed.append((found[1], False))
        elif line.startswith(_INTERRUPT) and typed:
            typed[-1] = (typed[-1][0], True)
    return typed


class Hour:
    """Somebody who tries what a page says.

    Parameters
    ----------
    home : Path
        An empty directory.
    browser : str
        Path of the browser.
    """

    def __init__(self, home: Path, browser: str) -> None:
        self._home = home
        self._browser = browser
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("BLUESKY_", "PREFECT_"))},
            "HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "COLUMNS": str(WIDTH),
            "TERM": "dumb",
            "IPY_TEST_SIMPLE_PROMPT": "1",
        }
        self._prompt: pexpect.spawn | None = None
        self._said = ""

    def record(self, page: str) -> str:
        """Do all that a page says; return the page with what was printed."""
        return _BLOCK.sub(self._block, page)

    def close(self) -> None:
        """End the session at the prompt, and the stack."""
        if self._prompt is not None:
            self._prompt.close(force=True)
        self._run("bluesky-prefect down")

    def _block(self, block: re.Match[str]) -> str:
        kind, text, picture = block.groups()
        if picture:
            PICTURES[picture](self)
            return block[0]
        done = "".join(self._do(kind, *typed) for typed in inputs(kind, text))
        return f"```{kind}\n{done}```"

    def _do(self, kind: str, line: str, interrupted: bool) -> str:
        sys.stderr.write(f"{line}\n")
        if kind == "ipython":
            printed = self._type(line, interrupted)
        elif line.endswith("ipython"):
            printed = f"$ {line}\n{self._open(line)}"
        else:
            printed = f"$ {line}\n{self._shell(line)}"
        self._said += printed
        return printed

    def _run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", command],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_S,
        )

    def _shell(self, command: str) -> str:
        done = self._run(command)
        code = f"[exit code {done.returncode}]\n" if done.returncode else ""
        return self._plain(done.stdout) + code

    def _open(self, command: str) -> str:
        """Open IPython; return its greeting."""
        self._prompt = pexpect.spawn(
            "/bin/bash",
            ["-c", command],
            cwd=str(ROOT),
            env=self._environment,
            encoding="utf-8",
            dimensions=(50, WIDTH),
            timeout=LONGEST_S,
        )
        self._prompt.expect(_PROMPT)
        return _BANNER.sub("", self._plain(self._prompt.before or ""))

    def _type(self, line: str, interrupted: bool) -> str:
        prompt = self._prompt
        if prompt is None:
            raise ValueError(f"No prompt is open for: {line}")
        number = prompt.match[1]
        prompt.expect(pexpect.TIMEOUT, timeout=MOMENT_S)  # people look before they type
        prompt.sendline(line)
        prompt.expect_exact(line)
        came_meanwhile = self._plain(prompt.before or "")
        if interrupted:
            if prompt.expect([pexpect.TIMEOUT, _PROMPT], timeout=UNDER_WAY_S):
                raise ValueError(f"It ended before Ctrl-C: {line}")
            prompt.sendintr()
        prompt.expect([_PROMPT, pexpect.EOF])
        return f"{came_meanwhile}In [{number}]: {line}\n{self._plain(prompt.before or '').lstrip()}"

    def _plain(self, text: str) -> str:
        """Return what was printed as it stands on the page: without this machine's names, and ending with a line."""
        text = _CONTROL.sub("", text).replace("\r\n", "\n").replace(str(self._home), "~").replace(str(ROOT), ".")
        text = re.sub(r"(/sign-in)#\S+", r"\1#...", text)  # what lets whoever has the link in
        text = re.sub(r"^.*\r", "", text, flags=re.MULTILINE)
        text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
        return re.sub(r"\n{3,}", "\n\n", f"{text}\n") if text else ""

    @contextmanager
    def browser(self, *options: str) -> Iterator[PrefectUi]:
        """Open a browser, signed in with the link that ``bluesky-prefect ui`` prints."""
        [link] = re.findall(r"http\S+", self._run(" ".join(["bluesky-prefect ui", *options])).stdout)
        with open_browser(self._browser) as page:
            if options:
                page.goto(link)
            else:
                sign_in(page, link)
            yield PrefectUi(page, link[: link.index("/", len("https://"))], IMAGES)

    def last_link(self) -> str:
        """Return the last link to a flow run that was printed."""
        return re.findall(r"http\S+/runs/flow-run/\S+", self._said)[-1]


def flow_runs(hour: Hour) -> None:
    """Take a picture of the list of runs with the scans' flow runs in it."""
    with hour.browser() as ui:
        ui.open_runs()
        ui.hide_subflows()
        ui.keep("prefect-ui")


def flow_run(hour: Hour) -> None:
    """Take a picture of the page of a scan, with its plot and its images."""
    with hour.browser() as ui:
        ui.open(hour.last_link())
        ui.pixels("its images")
        ui.keep("run-summary", height=1400)


def subflows(hour: Hour) -> None:
    """Take a picture of the flow runs within that of a scan."""
    with hour.browser() as ui:
        ui.open(hour.last_link())
        ui.subflows()
        ui.keep("subflows")


def results(hour: Hour) -> None:
    """Take a picture of a result in Tiled."""
    with hour.browser("--tiled") as ui:
        ui.see("processed")
        ui.open(f"{ui.url}/ui/browse/processed")
        ui.see("my-analysis-")
        ui.keep("tiled-ui")


PICTURES: dict[str, Callable[[Hour], None]] = {
    "prefect-ui": flow_runs,
    "run-summary": flow_run,
    "subflows": subflows,
    "tiled-ui": results,
}


def main() -> None:
    """Record the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default=BROWSER, help="path of the browser")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, closing(Hour(Path(home), arguments.browser)) as hour:
        PAGE.write_text(hour.record(PAGE.read_text()))


if __name__ == "__main__":
    main()
