"""The tutorials are typed as they stand, prompts too, and print what their pages show."""

import difflib
import re
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from docs.prefect_ui import BROWSER
from docs.recorder import PICTURES, TUTORIALS, Reader

from tests.conftest import missing_service
from tests.services.streaming_tiled import free_port

# What differs between two recordings, from the particular to the general.
_MASKS = [
    (re.compile(pattern), instead)
    for pattern, instead in [
        (r"(?<![0-9a-f])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uid>"),
        (r"(?<![0-9A-Za-z])[0-9a-f]{8}(?![0-9A-Za-z])", "<uid>"),
        (r"(Task run '[\w-]+)-[0-9a-f]{3}'", r"\1-<id>'"),
        # Prefect's names for flow runs that have none.
        (r"(low run '|run_name': ')[a-z]+-[a-z]+(?=['-])", r"\1<name>"),
        # Why a service on the internet is away.
        (r"(cannot be reached: ).*(\. Flow runs under way)", r"\1<reason>\2"),
        (r"\b(catfact\.ninja|[\w-]*api\.open-meteo\.com|127\.0\.0\.1): [^']*", "<service>: <reason>"),
        (r"\d{4}-\d\d-\d\d", "<date>"),
        (r"\d\d:\d\d:\d\d(\.\d+)?|\b\d\d:\d\d\b", "<time>"),
        (r"127\.0\.0\.1:\d+", "<address>"),
        (r"(?<![.\d])\d+\.\d+\.\d+(?!\.?\d)", "<version>"),
        (r"(Completed|Failed|Cancelled|Unavailable) [\d.]+( s)?$", r"\1 <seconds>"),
        (r"\b\d+(\.\d+)? ?s\b", "<seconds>"),
        (r"[\d.]+ GiB free \(\d+ %\)", "<size> free"),
        (r"\bbluesky-[0-9a-f]{6}\b", "<worker>"),
        (r"\S+:\d+ takes runs", "<courier> takes runs"),
        (r"\b\d{4,}\b", "<number>"),
    ]
]
# No other test opens these pages.
LOOKED_AT = {"tiled-ui", "failed-flow-run"}
_SPACES = re.compile(r" {2,}|-{4,}")
_TYPED = re.compile(r"\$ |In \[\d+\]: |```")
# What several threads or processes say, or flow runs that began at once, in whichever order.
_UNORDERED = re.compile(
    r"<time> |scan-\S+( \(\S+\))?: http|(Tiled server|Prefect server|Prefect worker|Courier): (start|read)"
)
# What is said before whichever prompt comes next.
_NOTICE = re.compile(r"Scan \d+ \(.*\): flow run |<time> \| WARNING \| bluesky_prefect\.")
# What is said where it takes longer, and empty lines around it.
_PATIENCE = re.compile(
    r".*: still starting|Waiting (for: |up to |until Tiled has )|Importing the clients of Prefect and Tiled"
    r"|(<time> \| WARNING \| \S+ - )?No answer yet at |$"
)
_CTRL_C = "^C"


def masked(line):
    """Return what is to be the same each time."""
    line = _SPACES.sub(" ", line).rstrip()
    for pattern, instead in _MASKS:
        line = pattern.sub(instead, line)
    return line


def shown(page):
    """Return the lines of a page that have to be the same, notices at the end."""
    lines, printed = [], []
    everything = [line for line in map(masked, page.splitlines()) if not _PATIENCE.match(line)]
    notices = [line for line in everything if _NOTICE.match(line)]
    for line in [line for line in everything if not _NOTICE.match(line)] + ["```"]:
        if _TYPED.match(line):
            lines += [*in_order(printed), line]
            printed = []
        else:
            printed.append(line)
    return lines + sorted(notices)


def in_order(printed):
    """Return what a command printed, with what has no order at the end.

    Where Ctrl-C ended it, nobody knows how far it was.
    """
    unordered = [line for line in printed if _UNORDERED.match(line.removeprefix(_CTRL_C))]
    rest = [line for line in printed if line not in unordered and line != _CTRL_C]
    interrupted = any(line.startswith(_CTRL_C) for line in printed)
    return rest if interrupted else [*rest, *sorted(unordered)]


def differences(page, recorded):
    """Return what a page shows and what was printed, where they differ."""
    return "\n".join(difflib.unified_diff(shown(page), shown(recorded), "the page", "printed now", lineterm="", n=6))


@pytest.fixture
def ports():
    """The ports that pages name, and free ones in their place."""
    return {"8000": str(free_port()), "4200": str(free_port())}


@pytest.fixture
def reader(tmp_path, ports, made_databases, outside_services, monkeypatch):
    """Somebody with an empty home directory."""
    if not Path(BROWSER).exists():
        missing_service("Chromium, with: apt-get install chromium")
    # What the other pictures show is looked at by test_prefect_ui.py; here, that there is a link to it.
    for picture in PICTURES.keys() - LOOKED_AT:
        monkeypatch.setitem(PICTURES, picture, lambda reader, _: reader.last_link("runs"))
    settings = {"tiled_port": ports["8000"], "prefect_port": ports["4200"], **outside_services}
    environment = {f"BLUESKY_PREFECT_{name.upper()}": value for name, value in settings.items()}
    # A path as short as when the pages are recorded: tables are as wide as the terminal.
    with tempfile.TemporaryDirectory() as home:
        made_databases.for_stack(Path(home, ".local", "state", "bluesky-prefect"))
        with closing(Reader(Path(home), tmp_path, environment=environment)) as reader:
            yield reader


@pytest.mark.timeout(900)  # an outage, and all that a machine with other things to do adds
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_prints_what_its_page_shows(tutorial, reader, ports):
    page = tutorial.read_text()
    for named, free in ports.items():
        page = page.replace(f"127.0.0.1:{named}", f"127.0.0.1:{free}")
    different = differences(page, reader.record(page))
    assert not different, f"{tutorial.name} shows what is not printed (make tutorials records it again):\n{different}"


def test_a_page_that_shows_what_is_not_printed_is_told(tmp_path):
    page = """
```python
# greeting.py
print("Good evening")
```

```python
# greeting.py
print("Good morning")
```

```console
$ python greeting.py; false
Good evening
```
"""
    with closing(Reader(tmp_path)) as reader:
        recorded = reader.record(page)
    told = [line for line in differences(page, recorded).splitlines()[3:] if line.startswith(("-", "+"))]
    assert told == ["-Good evening", "+Good morning", "+[exit code 1]"]
    assert differences(recorded, recorded) == ""


@pytest.mark.parametrize(
    "patience",
    [
        "Waiting until Tiled has run 0a1b2c3d ...",
        "Waiting up to 15 s for 1 flow run(s) to finish",
        "Importing the clients of Prefect and Tiled",
        "No answer yet at http://127.0.0.1:4200/api/admin/version; waiting for it, 10 s at most ...",
        "02:00:12.305 | WARNING | bluesky_prefect.stack._http - No answer yet at http://127.0.0.1:4200; waiting ...",
    ],
)
def test_what_is_said_where_it_takes_longer_does_not_count(patience):
    page = "```console\n$ bluesky-prefect down\n{}Courier: stopped\n```\n"
    assert differences(page.format(""), page.format(f"{patience}\n")) == ""


@pytest.mark.parametrize("wrong", ["up -> down", "server -> worker", "[exit code 1] -> "])
def test_each_line_counts(wrong):
    page = """```console
$ bluesky-prefect status
Prefect server  up  123456  http://127.0.0.1:4200
my-workflow/local  scan-1-count-0a1b2c3d  Completed  2.3
[exit code 1]
```
"""
    again = (
        page.replace("4200", "34567").replace("123456", "7890").replace("0a1b2c3d", "deadbeef").replace("2.3", "41.0")
    )
    assert differences(page, again) == ""
    assert differences(page, page.replace(*wrong.split(" -> "))) != ""
