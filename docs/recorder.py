"""Record tutorials again: type their commands, write down what they print, take their pictures.

The page is the script. Commands follow ``$`` in blocks of ``console``, and ``In [n]:`` in blocks of ``ipython``; all
other lines of a block are replaced by what is printed, which ends with the exit code if that is not 0. ``^C`` under a
call of a flow is typed a moment after that has begun. A block of ``python`` that begins with the name of a file, as
``# my_export.py``, is saved under that name, in place of an earlier version. Pictures are taken where the page shows
them, of what it has printed a link to.

Each page begins with an empty home directory, a clone in it, and a stack of its own. Record where there is no internet,
as the pages say. Needs Chromium.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
from docs.prefect_ui import BROWSER, PrefectUi, open_browser, sign_in

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.stem != "index")
IMAGES = ROOT / "docs" / "images"
CLONE = "bluesky-prefect"
WIDTH = 118
LONGEST_S = 300
MOMENT_S = 1.0
POLL_S = 0.1
# Between the beginning of a flow run and Ctrl-C.
UNDER_WAY_S = 0.4
# What would make a difference to what is printed.
_FOREIGN = ("BLUESKY_", "PREFECT_", "TILED_", "XDG_", "IPYTHON", "MPL", "MAKE", "MFLAGS", "PYTEST", "COV_")
# Not part of a fresh clone.
_MADE = {".git", ".pytest_cache", ".ruff_cache", ".venv", "build", "dist", "test-output"}
_BLOCK = re.compile(
    r"^```(console|ipython|python)\n(.*?)^```$|^!\[[^]]*\]\(\S*/([\w-]+)\.png\)$", re.MULTILINE | re.DOTALL
)
_INPUT = {"console": re.compile(r"^\$ (.*)$"), "ipython": re.compile(r"^In \[\d+\]: (.*)$")}
_FILE = re.compile(r"# (\S+\.py)\n")
_PROMPT = re.compile(r"In \[(\d+)\]: ")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What IPython itself says first.
_BANNER = re.compile(r"^(Python 3|Type 'copyright|IPython \d|Tip: ).*\n", re.MULTILINE)
_BEGUN = " - Beginning flow run "
_INTERRUPT = "^C"
_WARNING = re.compile(r" \| WARNING \| (bluesky_prefect\.[\w.]+) - ")


@dataclass
class Input:
    """A line that is typed.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C follows.
    warned_by : set of str
        Loggers whose warnings the page shows under it.
    """

    line: str
    interrupted: bool = False
    warned_by: set[str] = field(default_factory=set)


def inputs(kind: str, block: str) -> list[Input]:
    """Return what is typed in a block."""
    typed: list[Input] = []
    for line in block.splitlines():
        if found := _INPUT[kind].match(line):
            typed.append(Input(found[1]))
        elif typed and line.startswith(_INTERRUPT):
            typed[-1].interrupted = True
        elif typed and (warning := _WARNING.search(line)):
            typed[-1].warned_by.add(warning[1])
    return typed


class Reader:
    """Somebody who tries what a page says.

    Parameters
    ----------
    home : Path
        Home directory, in which a clone is made.
    images : Path
        Where pictures go.
    browser : str
        Path of the browser.
    environment : mapping, optional
        Further variables, such as settings that leave ports to the system.

    Attributes
    ----------
    names : dict
        Folders of this machine, and what a page calls them.
    """

    def __init__(
        self,
        home: Path,
        images: Path = IMAGES,
        browser: str = BROWSER,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._clone = _made_clone(home)
        self._images = images
        self._browser = browser
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self._environment = {
            **own,
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{own['PATH']}",
            "COLUMNS": str(WIDTH),
            "TERM": "dumb",
            "IPY_TEST_SIMPLE_PROMPT": "1",
            **(environment or {}),
        }
        self.names = {str(home): "~", str(ROOT): f"~/{CLONE}", sys.prefix: f"~/{CLONE}/.venv"}
        self._prompt: pexpect.spawn | None = None
        # Loggers that warn later than the prompt comes.
        self._to_warn: set[str] = set()
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
            sys.stderr.write(f"{picture}.png\n")
            PICTURES[picture](self, picture)
            return block[0]
        if kind == "python":
            self._save(text)
            return block[0]
        done = "".join(self._do(kind, typed) for typed in inputs(kind, text))
        return f"```{kind}\n{done}```"

    def _do(self, kind: str, typed: Input) -> str:
        line = typed.line
        if kind == "ipython":
            printed = self._type(typed)
        elif line.endswith("ipython"):
            printed = f"$ {line}\n{self._open(line)}"
        else:
            printed = f"$ {line}\n{self._shell(line)}"
        sys.stderr.write(printed)
        self._said += printed
        return printed

    def _save(self, text: str) -> None:
        """Save what begins with the name of a file, in the clone unless the name says where."""
        if named := _FILE.match(text):
            path = self._clone / named[1].replace("~", str(self._home), 1)
            sys.stderr.write(f"{path}\n")
            path.write_text(text)

    def _run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", command],
            cwd=self._clone,
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
            cwd=str(self._clone),
            env=self._environment,
            encoding="utf-8",
            dimensions=(50, WIDTH),
            timeout=LONGEST_S,
        )
        self._to_warn = set()
        self._prompt.expect(_PROMPT)
        return _BANNER.sub("", self._plain(self._prompt.before or ""))

    def _type(self, typed: Input) -> str:
        prompt, line = self._prompt, typed.line
        if prompt is None:
            raise ValueError(f"No prompt is open for: {line}")
        number = prompt.match[1]
        self._wait_for_warnings(prompt)
        if line == "exit":
            self._wait_for_deliveries()
        prompt.expect(pexpect.TIMEOUT, timeout=MOMENT_S)  # people look before they type
        prompt.sendline(line)
        prompt.expect_exact(line)
        came_meanwhile = self._plain(prompt.before or "")
        begun = ""
        if typed.interrupted:
            if prompt.expect([_BEGUN, _PROMPT]):
                raise ValueError(f"It ended before Ctrl-C: {line}")
            begun = f"{prompt.before}{prompt.after}"
            prompt.expect(pexpect.TIMEOUT, timeout=UNDER_WAY_S)
            prompt.sendintr()
        prompt.expect([_PROMPT, pexpect.EOF])
        printed = self._plain(f"{begun}{prompt.before}").lstrip()
        self._to_warn = {name for name in typed.warned_by if name not in printed}
        return f"{came_meanwhile}In [{number}]: {line}\n{printed}"

    def _wait_for_warnings(self, prompt: pexpect.spawn) -> None:
        """Wait for what the page shows after a prompt has come, if it takes longer than people look."""
        deadline = time.monotonic() + LONGEST_S
        said = ""
        while any(name not in said for name in self._to_warn) and time.monotonic() < deadline:
            prompt.expect(pexpect.TIMEOUT, timeout=POLL_S)
            said = prompt.before or ""

    def _wait_for_deliveries(self) -> None:
        """Wait until Tiled has all runs: a session that ends before says so."""
        journals = self._home / ".local" / "state" / "bluesky-prefect" / "journals"
        deadline = time.monotonic() + LONGEST_S
        while any(journals.glob("*.journal")) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _plain(self, text: str) -> str:
        """Return what was printed as it stands on the page: without this machine's names, and ending with a line."""
        text = _CONTROL.sub("", text).replace("\r\n", "\n")
        for name, instead in self.names.items():
            text = text.replace(name, instead)
        text = re.sub(r"(/sign-in)#\S+", r"\1#...", text)  # what lets whoever has the link in
        text = re.sub(r"^.*\r", "", text, flags=re.MULTILINE)
        text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
        return re.sub(r"\n{3,}", "\n\n", f"{text}\n") if text else ""

    def last_call(self) -> str | None:
        """Return the link to the flow run that the last call of a flow has made, if there was one."""
        calls = re.findall(r"- Beginning flow run .*\n.* - View at (\S+)", self._said)
        return calls[-1] if calls else None

    @contextmanager
    def browser(self, *options: str) -> Iterator[PrefectUi]:
        """Open a browser, signed in with the link that ``bluesky-prefect ui`` prints."""
        [link] = re.findall(r"http\S+", self._run(" ".join(["bluesky-prefect ui", *options])).stdout)
        with open_browser(self._browser) as page:
            if options:
                page.goto(link)
            else:
                sign_in(page, link)
            yield PrefectUi(page, link[: link.index("/", len("https://"))], self._images)

    def last_link(self, to: str = "runs/flow-run/") -> str:
        """Return the last link that was printed, to a flow run unless something else is said."""
        return re.findall(rf"http\S+/{to}\S+", self._said)[-1]


def flow_runs(reader: Reader, name: str) -> None:
    """Take a picture of the list of runs with the scans' flow runs in it."""
    with reader.browser() as ui:
        ui.open_runs()
        ui.hide_subflows()
        ui.keep(name)


def flow_runs_of_scan(reader: Reader, name: str) -> None:
    """Take a picture of the list with the flow runs of the scan taken last."""
    link = reader.last_link("runs[?]flow-run-search=")
    with reader.browser() as ui:
        ui.open(link)
        ui.see(link.split("=")[1].split("&")[0])
        ui.keep(name)


def flow_run(reader: Reader, name: str) -> None:
    """Take a picture of the page of a scan, with its plot and its images."""
    with reader.browser() as ui:
        ui.open(reader.last_link())
        ui.pixels("its images")
        ui.keep(name, height=1400)


def log(reader: Reader, name: str) -> None:
    """Take a picture of a flow run's page, with its log."""
    with reader.browser() as ui:
        ui.open(reader.last_link().partition("?")[0])
        ui.see("Finished in state")
        ui.keep(name)


def failure(reader: Reader, name: str) -> None:
    """Take a picture of the page of a flow run that has failed, with all of its log."""
    with reader.browser() as ui:
        ui.open(reader.last_link())
        ui.see("Finished in state")
        ui.replace(reader.names)
        ui.keep(name, height=1500)


def subflows(reader: Reader, name: str) -> None:
    """Take a picture of the flow runs within that of a scan, or that of the last call of a flow."""
    with reader.browser() as ui:
        ui.open(reader.last_call() or reader.last_link())
        ui.subflows()
        ui.keep(name)


def results(reader: Reader, name: str) -> None:
    """Take a picture of a result in Tiled."""
    with reader.browser("--tiled") as ui:
        ui.see("processed")
        ui.open(f"{ui.url}/ui/browse/processed")
        ui.see("my-analysis-")
        ui.keep(name)


PICTURES: dict[str, Callable[[Reader, str], None]] = {
    "converted-flow": log,
    "failed-flow-run": failure,
    "flow-runs-of-a-scan": flow_runs_of_scan,
    "prefect-ui": flow_runs,
    "repaired-flow-run": flow_runs_of_scan,
    "run-summary": flow_run,
    "subflows": subflows,
    "subflows-by-hand": subflows,
    "tiled-ui": results,
}


def _made_clone(home: Path) -> Path:
    """Make what stands for a fresh clone, with the environment that this runs in."""
    clone = home / CLONE
    clone.mkdir()
    for path in ROOT.iterdir():
        if path.name not in _MADE and not path.name.startswith(".venv-"):
            (clone / path.name).symlink_to(path)
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


def main() -> None:
    """Record the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=TUTORIALS, help="all tutorials if not given")
    parser.add_argument("--browser", default=BROWSER, help="path of the browser")
    arguments = parser.parse_args()
    for page in arguments.pages:
        with (
            tempfile.TemporaryDirectory() as home,
            closing(Reader(Path(home), browser=arguments.browser)) as reader,
        ):
            page.write_text(reader.record(page.read_text()))


if __name__ == "__main__":
    main()
