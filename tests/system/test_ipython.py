"""A real IPython in a pseudo-terminal, with the beamline profile."""

import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pexpect
import pytest
from prefect.client.orchestration import get_client
from prefect.states import Crashed
from tiled.client import from_uri
from tiled.structures.core import Spec

from bluesky_prefect.core import Run
from bluesky_prefect.prefect_api import flow_run_url, runs_url, search_url
from bluesky_prefect.session._ipython import ipython_command, startup_files
from bluesky_prefect.stack import WORKFLOWS, StackInfo
from bluesky_prefect.stack._info import StackPaths
from tests.services.couriers import stop_courier
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import ask, user_of, wait_until
from tests.services.second_looks import look_again
from tests.system.hutch import idle_deployment

_PROMPT = re.compile(r"In \[\d+\]: ")
_LOAD_TIMEOUT_S = 90
_RUN_TIMEOUT_S = 60
_COMMAND = [str(Path(sys.executable).with_name("bluesky-prefect")), "ipython", "--simple-prompt", "--colors=NoColor"]


class Terminal:
    """Somebody at an IPython prompt."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._child = pexpect.spawn(
            command[0],
            command[1:],
            env={**os.environ, **environment, "TERM": "dumb", "NO_COLOR": "1", "PYTHONFAULTHANDLER": "1"},
            encoding="utf-8",
            dimensions=(50, 240),
            timeout=_RUN_TIMEOUT_S,
        )
        self.greeting = self._until_prompt(_LOAD_TIMEOUT_S)

    def type(self, line: str, *, timeout_s: float = _RUN_TIMEOUT_S) -> str:
        """Type a line; return what appears until the next prompt."""
        self._child.sendline(line)
        return self._until_prompt(timeout_s)

    def type_to_death(self, line: str) -> int:
        """Type a line that ends the process; return the signal that did it."""
        self._child.sendline(line)
        self._child.expect(pexpect.EOF)
        self.last_words = self._child.before
        self._child.close()
        return self._child.signalstatus

    def interrupt(self, line: str, *, after: str, reaction_s: float = 0.0) -> str:
        """Type a line, and Ctrl-C so long after it has said something; return what appears after that."""
        self._child.sendline(line)
        self._child.expect(after)
        time.sleep(reaction_s)
        self._child.sendintr()
        return self._until_prompt(_RUN_TIMEOUT_S)

    def run(self, plan: str) -> str:
        """Run a plan; return the uid of its run."""
        return re.search(r"Persistent Unique Scan ID: '([^']+)'", self.type(f"RE({plan})"))[1]

    def leave(self) -> str:
        """Leave as people do; return the last words."""
        if not self._child.isalive():
            return ""
        self._child.sendline("exit")
        self._child.expect(pexpect.EOF)
        words = self._child.before
        self._child.wait()
        self._child.close()
        return words

    def kill(self) -> None:
        """End the process without a word, if it is there; pexpect gives up after a tenth of a second."""
        if not self._child.closed and self._child.isalive():
            self._child.kill(signal.SIGKILL)
            self._child.wait()
        self._child.close()

    def _until_prompt(self, timeout_s: float) -> str:
        try:
            self._child.expect(_PROMPT, timeout=timeout_s)
        except pexpect.TIMEOUT:
            # Python says where each thread is, and dies.
            self._child.kill(signal.SIGABRT)
            raise AssertionError(f"no prompt within {timeout_s} s: {self._child.read()[-20_000:]}") from None
        return self._child.before


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def open_one(command: list[str], environment: dict[str, str]) -> Terminal:
        terminals.append(Terminal(command, environment))
        return terminals[-1]

    yield open_one
    for terminal in terminals:
        terminal.kill()


@pytest.fixture(scope="module")
def terminal(stack: StackInfo) -> Iterator[Terminal]:
    """``bluesky-prefect ipython``: it finds the stack by its state directory."""
    opened: list[Terminal] = []

    def open_one() -> Terminal:
        opened.append(Terminal(_COMMAND, {"BLUESKY_PREFECT_STATE_DIRECTORY": str(stack.state_directory)}))
        return opened[-1]

    try:
        yield look_again(open_one, said=lambda terminal: terminal.greeting)
    finally:
        for terminal in opened:
            terminal.kill()


def _flow_runs(stack: StackInfo, uid: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"tags": {"all_": [f"uid:{uid}"]}}}
    return ask(stack, "POST", "/flow_runs/filter", json=body).raise_for_status().json()


def _completed(stack: StackInfo, uid: str) -> dict[str, Any]:
    def state_types() -> list[str]:
        return [one["state"]["type"] for one in _flow_runs(stack, uid)]

    final = {"COMPLETED", "FAILED", "CRASHED"}
    wait_until(lambda: bool(set(state_types()) & final), timeout_s=120)
    assert state_types() == ["COMPLETED"]
    return _flow_runs(stack, uid)[0]


def _exported(stack: StackInfo, uid: str) -> list[Path]:
    """Return the files of the folder whose summary names the run."""
    for summary in stack.exports.rglob("scan_*.txt"):
        if uid in summary.read_text():
            return sorted(path for path in summary.parent.iterdir() if path.is_file())
    return []


def test_a_count_at_the_prompt_becomes_a_completed_flow_run_and_a_file(stack: StackInfo, terminal: Terminal):
    said = terminal.type("RE(count([det], 3))")

    uid = re.search(r"Persistent Unique Scan ID: '([^']+)'", said)[1]
    flow_run = _completed(stack, uid)
    assert re.fullmatch(rf"scan-\d+-count-{uid[:8]}", flow_run["name"])
    assert f"{flow_run['name']} starts my-workflow/local: {search_url(stack.prefect_ui_url, flow_run['name'])}" in said
    assert {path.suffix for path in _exported(stack, uid)} >= {".txt", ".csv", ".png"}


def test_the_greeting_is_four_lines_with_what_a_newcomer_needs(stack: StackInfo, terminal: Terminal):
    lines = terminal.greeting.strip().splitlines()
    assert lines[-4] == f"Tiled: {stack.tiled_uri}; Prefect: {runs_url(stack.prefect_ui_url)}"
    assert lines[-3].startswith("Devices: motor, motor1, motor2, det, det1, det2, noisy_det, image_det; ")
    assert [line.split()[0] for line in lines[-2:]] == ["%flows", "export(-1)"]


def test_scan_ids_go_on_after_the_newest_in_tiled(
    stack: StackInfo, terminal: Terminal, open_terminal, plain_ipython, no_services
):
    terminal.run("count([det], 1), prefect=False")
    taken = int(re.search(r"TAKEN (\d+)", terminal.type("print('TAKEN', raw[-1].start['scan_id'])"))[1])

    elsewhere = look_again(
        lambda: open_terminal(plain_ipython, {**stack.environment(), **no_services}),
        said=lambda terminal: terminal.greeting,
    )

    assert f"Transient Scan ID: {taken + 1} " in elsewhere.type("RE(count([det], 1), prefect=False)")


def test_export_can_be_called_at_the_prompt(stack: StackInfo, terminal: Terminal):
    uid = terminal.run("scan([det1], motor1, -1, 1, 5), prefect=False")
    terminal.run("count([det], 1), prefect=False")

    output = terminal.type("export(ref=-2)")

    assert "Flow run" in output
    assert "Completed" in output
    assert _exported(stack, uid)
    assert _flow_runs(stack, uid) == []


def test_a_plan_closes_the_loop_over_a_flow(stack: StackInfo, terminal: Terminal):
    output = terminal.type("RE(close_in_on_peak(det2, motor2, -12, 10), purpose='loop')", timeout_s=170)

    uids = re.findall(r"Persistent Unique Scan ID: '([^']+)'", output)
    assert len(uids) >= 2, output
    position = float(re.search(r"POSITION (\S+)", terminal.type("print('POSITION', motor2.position)"))[1])
    assert position == pytest.approx(1.0, abs=0.05), "where the detector's peak is"
    fwhm = terminal.type(f"tiled_client['processed']['peak-{uids[-1]}'].metadata['fwhm']")
    assert float(re.search(r"\d+\.\d+", fwhm)[0]) == pytest.approx(2.355 * 2, rel=0.05)
    # Each was also exported as any run is.
    wait_until(lambda: all(len(_flow_runs(stack, uid)) == 2 for uid in uids))


_WAITING = Path(__file__).parents[2] / "docs" / "how-to" / "wait-for-a-flow-in-a-plan.md"
_KEEP = """
kept = []

def keep(uid):
    kept.append((yield from wait_for_flow(uid, workflow="my-workflow/local", timeout_s=120)))
"""


def test_the_plan_of_the_how_to_waits_and_gets_files_and_results(stack: StackInfo, terminal: Terminal, tmp_path: Path):
    plan, _ = re.findall(r"```python\n(.*?)```", _WAITING.read_text(), re.DOTALL)
    script = tmp_path / "plan.py"
    script.write_text(plan + _KEEP)
    terminal.type(f"%run -i {script}")

    output = terminal.type("RE(scan_twice(det2, motor2, -12, 10))", timeout_s=170)
    uids = re.findall(r"Persistent Unique Scan ID: '([^']+)'", output)
    assert len(uids) == 2, output
    terminal.type(f"_ = RE(keep('{uids[0]}'))", timeout_s=170)
    files = terminal.type("print(*kept[0].files)").split()[1:]
    assert {Path(file).suffix for file in files if Path(file).is_file()} == {".txt", ".csv", ".nxs", ".png"}
    assert f"processed/peak-{uids[0]}" in terminal.type("print(*kept[0].processed)")
    assert "()" in terminal.type("kept[0].problems")


def test_the_list_that_the_how_to_shows_is_that_of_the_stack():
    _, subscription = re.findall(r"```python\n(.*?)```", _WAITING.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(subscription.partition("RE.subscribe")[0], _WAITING.name, "exec"), names)
    for metadata, wanted in (({}, [True, False]), ({"find_peak": True}, [True, True])):
        run = Run(uid="u", start=metadata, stop={})
        assert [one.when(run) for one in names["workflows"]] == [one.when(run) for one in WORKFLOWS] == wanted
    assert [one.deployment for one in names["workflows"]] == [one.deployment for one in WORKFLOWS]


def test_the_last_run_is_at_hand(terminal: Terminal):
    uid = terminal.run("count([noisy_det], 2), prefect=False")

    assert uid[:8] in terminal.type("raw[-1]")
    assert uid in terminal.type("tiled_client['raw'][-1].start['uid']")


def test_images_can_be_read_back(terminal: Terminal):
    terminal.run("scan([image_det, det1], motor1, -1, 1, 3), prefect=False")

    assert "(3, 64, 64)" in terminal.type("raw[-1]['primary']['image_det'].read().shape")


def test_a_failing_plan_leaves_the_session_usable(stack: StackInfo, terminal: Terminal):
    output = terminal.type("RE(failing_scan([det]))")

    assert "on purpose" in output
    uid = re.search(r"Persistent Unique Scan ID: '([^']+)'", output)[1]
    _completed(stack, uid)
    assert terminal.type("1 + 1").strip().endswith("2")


@pytest.fixture
def no_services(tmp_path: Path, unused_port: int) -> Iterator[dict[str, str]]:
    """No servers, and the courier that the session starts."""
    yield {
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path / "state"),
        "BLUESKY_PREFECT_PREFECT_PORT": str(unused_port),
        "BLUESKY_PREFECT_START_COURIER": "true",
    }
    stop_courier(tmp_path / "state")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def plain_ipython(tmp_path: Path) -> list[str]:
    """IPython with the profile's startup files, as with a profile linked to them: no stack is started."""
    return [*ipython_command(startup_files(), tmp_path), "--simple-prompt", "--colors=NoColor"]


def test_with_no_service_the_profile_loads_and_scans_run(open_terminal, plain_ipython, no_services):
    begin = time.monotonic()
    terminal = open_terminal(plain_ipython, no_services)
    took_s = time.monotonic() - begin

    line, courier = [line for line in terminal.greeting.splitlines() if "Tiled" in line or "Prefect" in line]
    assert line.strip().endswith("Start with: bluesky-prefect up")
    assert courier.startswith("Started a courier (pid ")
    uid = terminal.run("count([det], 3)")
    listed = terminal.type("%flows")
    assert "Waiting to be sent" in listed
    assert "On the way to Tiled: 1 run" in listed
    absent = "No Prefect server is named: set PREFECT_API_URL, or start a local stack with: bluesky-prefect up"
    assert absent in listed
    assert absent in terminal.type("%wait_flows 0")
    told = wait_until(lambda: _told(terminal, "waiting on disk"))
    assert told.count("1 run is waiting on disk") == 1
    assert "waiting" not in terminal.type("0")
    assert uid in terminal.type("[entry.run_uid for entry in session.prefect_callback.outbox.entries()]")
    assert "start a local stack with: bluesky-prefect up" in terminal.type("tiled_client")
    last_words = terminal.leave()
    assert "Traceback" not in last_words
    assert "Still on the way to Tiled: 1 run. The courier" in last_words
    assert took_s < 30  # seconds on an idle machine; importing bluesky, ophyd and matplotlib is most of it


def _told(terminal: Terminal, what: str) -> str:
    """Return what appears before the next prompt, if it says so."""
    said = terminal.type("0")
    return said if what in said else ""


def test_a_failure_is_told_before_the_next_prompt_once(stack: StackInfo, open_terminal, plain_ipython, no_services):
    with idle_deployment(stack), get_client(sync_client=True) as client:
        workflows = {"BLUESKY_PREFECT_WORKFLOWS": "tests.system.hutch:WORKFLOWS"}
        terminal = open_terminal(plain_ipython, {**stack.environment(), **no_services, **workflows})
        uid = terminal.run("count([det], 1)")
        scan_id = int(re.search(r"SCAN (\d+)", terminal.type("print('SCAN', RE.md['scan_id'])"))[1])
        [flow_run] = wait_until(lambda: _flow_runs(stack, uid))
        link = flow_run_url(stack.prefect_ui_url, flow_run["id"], failed=True)
        assert "Scheduled" in terminal.type(f"%flows --scan {scan_id}")

        client.set_flow_run_state(UUID(flow_run["id"]), Crashed(message="killed"), force=True)

        told = wait_until(lambda: _told(terminal, "crashed"))
        assert f"Scan {scan_id} (count): flow run {flow_run['name']} crashed: killed  {link}" in told
        assert "crashed" not in terminal.type("0")
        assert link in terminal.type("%flows --failed")
        assert "1 flow run: 1 crashed." in terminal.type("%wait_flows 30")
        assert "No flow runs are running." in terminal.type("%wait_flows 30")


_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "see-what-became-of-a-run.md"
_BLOCKS = "\n".join(re.findall(r"```(?:ipython|python)\n(.*?)```", _PAGE.read_text(), re.DOTALL)).splitlines()
# The magics of its table, too.
_LINES = [
    line
    for line in dict.fromkeys([*re.findall(r"`(%[a-z_]+[^`]*)`", _PAGE.read_text()), *_BLOCKS])
    if line and not line.startswith(" ") and "--watch" not in line
]


def test_each_line_of_the_how_to_works_at_the_prompt(terminal: Terminal):
    assert len(_LINES) > 8
    for line in _LINES:
        said = terminal.type(line)
        assert "Error" not in said, f"{line}: {said}"
        assert "Traceback" not in said, f"{line}: {said}"


def test_the_magics_say_what_they_take(terminal: Terminal):
    assert "UsageError" in terminal.type("%flows -n 0")
    said = terminal.type("%flows nonsense")
    assert "UsageError" in said
    assert "Traceback" not in said
    assert "Error" not in terminal.type("%reload_ext bluesky_prefect")
    assert "No flow runs." in terminal.type("%flows 987654321")


_MISTAKES = {
    "export(ref=99999)": "RunNotFound: ",
    "export(-99)": "RunNotFound: ",
    'export("zzz")': "FlowInputError: 'zzz' is too short",
    'export(-1, date="tomorrow")': "FlowInputError: 'tomorrow' is not a date",
    "export(-1, dat=1)": "FlowInputError: export: got an unexpected keyword argument 'dat'",
    "my_workflow()": "FlowInputError: my_workflow: missing a required argument: 'ref'",
    "raw[-99999]": "LookupFailed: Tiled has no -99999 there",
    "raw['zzzzzz']": "LookupFailed: Tiled has no 'zzzzzz' there",
}


def test_a_mistake_at_the_prompt_is_a_line_and_no_flow_run(stack: StackInfo, terminal: Terminal):
    terminal.run("count([det], 1), prefect=False")
    terminal.type("raw[-1]")  # or the lines below say that they wait for the courier
    before = _all_flow_runs(stack)
    for line, said in _MISTAKES.items():
        shown = [one for one in look_again(lambda line=line: terminal.type(line)).splitlines()[1:] if one.strip()]
        assert len(shown) == 1, shown
        assert shown[0].startswith(said)
    assert _all_flow_runs(stack) == before


@pytest.fixture
def endless_run(stack: StackInfo) -> Iterator[str]:
    """A run in Tiled whose end the flows wait for."""
    uid = "77777777-2222-3333-4444-555555555555"
    start = {"uid": uid, "time": 1777651200.25, "scan_id": 79, "plan_name": "endless"}
    root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
    node = root["raw"].create_container(uid, metadata={"start": start}, specs=[Spec("BlueskyRun", "3.0")])
    yield uid
    node.delete()
    root.context.close()


def test_ctrl_c_at_the_prompt_is_a_line_and_cancels_the_flow_run(stack: StackInfo, terminal: Terminal, endless_run):
    terminal.run("count([det], 1), prefect=False")
    terminal.type("export(-1)")  # Prefect is imported

    output = terminal.interrupt(f"export('{endless_run}')", after="Beginning flow run")

    assert "Traceback" not in output
    name = re.search(r"Interrupted: flow run '(.+?)' is cancelled", output)[1]
    assert f"Flow run '{name}' - Finished in state Cancelled" in output


def _all_flow_runs(stack: StackInfo) -> set[str]:
    # Not those of reconciliation, which come by themselves.
    body = {"flows": {"name": {"any_": ["export", "my-workflow"]}}}
    return {one["id"] for one in ask(stack, "POST", "/flow_runs/filter", json=body).raise_for_status().json()}


def test_with_a_wrong_list_the_profile_loads_and_runs_are_kept(open_terminal, plain_ipython, no_services):
    terminal = open_terminal(plain_ipython, {**no_services, "BLUESKY_PREFECT_WORKFLOWS": "no.such:list"})

    [line] = [line for line in terminal.greeting.splitlines() if "no.such:list" in line]
    assert "No module named 'no'" in line
    assert "this session starts no flows" in line
    assert "Traceback" not in terminal.greeting
    uid = terminal.run("count([det], 1)")
    listed = terminal.type("%flows")
    assert "On the way to Tiled: 1 run" in listed
    assert uid[:8] not in listed, "nobody knows what it was to start"


def test_scan_ids_go_on_in_the_next_session(open_terminal, plain_ipython, no_services):
    first = open_terminal(plain_ipython, no_services)
    first.run("count([det], 1)")
    first.leave()

    second = open_terminal(plain_ipython, no_services)

    assert "Transient Scan ID: 2 " in second.type("RE(count([det], 1))")


def test_what_a_killed_session_left_is_sent_once_by_the_next(
    stack: StackInfo, open_terminal, plain_ipython, no_services, request
):
    proxy = FaultProxy(urlsplit(stack.prefect_api_url).port)
    request.addfinalizer(proxy.close)
    services = {**stack.environment(), **no_services, "PREFECT_API_URL": f"{proxy.url}/api"}
    proxy.mode = "refuse"
    away = open_terminal(plain_ipython, services)
    away.type("import os, signal")
    away.type("_ = RE.subscribe(lambda _, doc: print('UID', doc['run_start']), 'stop')")
    away.type("_ = RE.subscribe(lambda *_: os.kill(os.getpid(), signal.SIGKILL), 'stop')")
    assert away.type_to_death("RE(count([det], 2))") == signal.SIGKILL
    uid = re.search(r"UID (\S+)", away.last_words)[1]

    proxy.mode = "pass"
    back = open_terminal(plain_ipython, services)

    _completed(stack, uid)
    assert "waiting=0" in back.type("session.prefect_callback.outbox.counts()")
    assert len(_flow_runs(stack, uid)) == 1


def test_a_stack_started_later_gets_the_next_run(stack: StackInfo, open_terminal, plain_ipython, no_services):
    prefect = {"PREFECT_API_URL": stack.prefect_api_url, "PREFECT_API_AUTH_STRING": user_of(stack)}
    terminal = open_terminal(plain_ipython, {**no_services, **prefect})
    assert terminal.greeting.count("No Tiled (") == 1

    # What 'up' leaves in the session's state directory.
    known, here = StackPaths(stack.state_directory), StackPaths(Path(no_services["BLUESKY_PREFECT_STATE_DIRECTORY"]))
    shutil.copy(known.tiled_api_key, here.tiled_api_key)
    shutil.copy(known.prefect_auth_string, here.prefect_auth_string)
    shutil.copy(known.state, here.state)
    uid = terminal.run("count([det], 1)")

    _completed(stack, uid)
    assert uid[:8] in terminal.type("raw[-1]")
