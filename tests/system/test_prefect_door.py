"""Who gets at the local stack's Prefect server: its owner, and neither web pages nor other users of the machine."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import create_connection, socket

import httpx
import pytest
from docs.prefect_ui import BROWSER, PrefectUi, open_browser, sign_in
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from bluesky_prefect.stack import LocalStack, make_private_directory, sign_in_url
from bluesky_prefect.stack._prefect import PrefectServer
from bluesky_prefect.stack._sign_in import LINKS, SIGN_IN
from bluesky_prefect.stack._startup import Startup
from tests.conftest import missing_service
from tests.services.another_user import as_nobody, reachable, said_by
from tests.services.loopback import Loopback
from tests.services.prefect_process import ask, user_of, wait_until

HERE = Path(__file__).parent
_SHOW_IN_A_FRAME = "url => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))"
STREAMS = ["/api/events/out", "/api/events/in"]


def deployment(stack):
    return ask(stack, "GET", "/deployments/name/my-workflow/local").raise_for_status().json()["id"]


def hostile_flow_runs(stack):
    body = {"flow_runs": {"name": {"any_": ["hostile"]}}}
    return ask(stack, "POST", "/flow_runs/filter", json=body).raise_for_status().json()


# Web pages.


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write((HERE / "hostile_page.html").read_bytes())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser():
    if not Path(BROWSER).exists():
        missing_service("Chromium, with: apt-get install chromium")
    with open_browser() as page:
        yield page.context.browser


@pytest.fixture
def page(browser):
    with closing(browser.new_context()) as context:
        yield context.new_page()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with closing(Loopback(_Pages)) as pages:
        yield f"http://{pages.address}/"


@pytest.mark.parametrize("signed_in", [False, True], ids=["", "signed-in"])
def test_a_page_of_another_origin_starts_nothing_and_learns_nothing(stack, page, elsewhere, signed_in):
    if signed_in:
        sign_in(page, sign_in_url(stack))
    page.goto(elsewhere)
    told = page.evaluate(
        "([server, deployment]) => attack(server, deployment)", [stack.prefect_ui_url, deployment(stack)]
    )
    assert hostile_flow_runs(stack) == []
    # An opaque answer tells the page nothing, not even whether it was a refusal.
    assert told.pop("blind") == "opaque"
    assert {name: what for name, what in told.items() if not what.startswith("no: ")} == {}


def test_no_page_shows_the_ui_in_a_frame(stack, page, elsewhere):
    page.goto(elsewhere)
    blocked = []
    page.on("console", lambda message: blocked.append(message.text) if "frame-ancestors" in message.text else None)
    for path in ("/runs", SIGN_IN):
        blocked.clear()
        page.evaluate(_SHOW_IN_A_FRAME, stack.prefect_ui_url + path)
        wait_until(lambda: page.wait_for_timeout(100) or blocked)


def test_a_page_elsewhere_signs_nobody_in_to_tiled_nor_out_of_it(stack, page, elsewhere):
    key, elsewhere = stack.tiled_api_key.get_secret_value(), elsewhere.replace("127.0.0.1", "localhost")

    def led_to_tiled(page_with_link, key):
        page.goto(page_with_link)
        address = f"{stack.tiled_uri}/api/v1/metadata/?api_key={key}"
        with page.expect_response(address) as led:
            page.evaluate("url => { location = url }", address)
        page.wait_for_url(address)
        return led.value.status

    def cookies():
        return [one["value"] for one in page.context.cookies(stack.tiled_uri) if one["name"] == "tiled_api_key"]

    assert led_to_tiled(elsewhere, key) == 403
    assert cookies() == []
    # As from the UI of Prefect, and from a terminal.
    assert led_to_tiled(f"{stack.prefect_ui_url}/runs", key) == 200
    assert page.goto(f"{stack.tiled_uri}/?api_key={key}").status == 200
    [kept] = cookies()
    assert led_to_tiled(elsewhere, "0" * 64) == 403
    assert cookies() == [kept]


_FOREIGN = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "10.0.0.1:{port}", ""]


@pytest.mark.parametrize("host", _FOREIGN)
def test_a_foreign_host_is_refused_also_with_the_password(stack, host):
    url = httpx.URL(stack.prefect_api_url)
    host = host.format(port=url.port)
    for base in (stack.prefect_ui_url, stack.tiled_uri):
        for path in ("/api/admin/version", "/api/health", "/runs", SIGN_IN):
            answer = httpx.get(base + path, headers={"Host": host, **stack.prefect_headers}, timeout=30)
            assert answer.status_code == 400
    if host:
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws://{host}/api/events/out", sock=create_connection((url.host, url.port))),
        ):
            pass
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_this_machine_s_own_names_are_let_in(stack, name):
    url = stack.prefect_api_url.replace("127.0.0.1", name)
    assert httpx.get(f"{url}/admin/version", headers=stack.prefect_headers, timeout=30).status_code == 200


# Programs.


def test_every_route_of_the_api_wants_the_password(stack):
    described = httpx.get(f"{stack.prefect_ui_url}/openapi.json", timeout=30).raise_for_status().json()["paths"]
    assert len(described) > 100
    wrong = {"Authorization": "Basic " + "d3Jvbmc6d3Jvbmc="}
    open_to_all = set()
    with httpx.Client(base_url=stack.prefect_api_url, timeout=30) as client:
        for path, methods in described.items():
            place = re.sub(r"\{.*?\}", "00000000-0000-4000-8000-000000000000", path)
            for method in methods:
                answers = {client.request(method, place, headers=headers).status_code for headers in ({}, wrong)}
                open_to_all |= set() if answers == {401} else {(method, path)}
    # They tell whether the server is there, for whoever looks after machines.
    assert open_to_all == {("get", "/health"), ("get", "/ready")}


def test_what_is_open_besides_the_api_tells_nothing_of_runs(stack):
    assert httpx.get(f"{stack.prefect_ui_url}/api/health", timeout=30).json() is True
    settings = httpx.get(f"{stack.prefect_ui_url}/ui-settings", timeout=30).json()
    assert settings["auth"] == "BASIC"
    assert user_of(stack) not in json.dumps(settings)
    assert httpx.post(f"{stack.prefect_ui_url}{LINKS}", timeout=30).status_code == 401
    for guess in ("", "guess", user_of(stack)):
        assert httpx.post(f"{stack.prefect_ui_url}{SIGN_IN}", content=guess, timeout=30).status_code == 403


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_an_event_stream_is_closed_without_the_password(stack, path, token):
    url = stack.prefect_ui_url.replace("http", "ws") + path
    with connect(url, subprotocols=["prefect"]) as stream:
        stream.send(json.dumps({"type": "auth", "token": token}))
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=30)
    assert closed.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus), connect(url):
        pass


def test_an_event_stream_is_open_with_the_password(stack):
    with connect(stack.prefect_ui_url.replace("http", "ws") + STREAMS[0], subprotocols=["prefect"]) as stream:
        stream.send(json.dumps({"type": "auth", "token": user_of(stack)}))
        assert json.loads(stream.recv(timeout=30))["type"] == "auth_success"


def test_a_flow_run_under_way_is_cancelled_from_the_ui(stack):
    wanted = {"parameters": {"ref": "00000000-0000-4000-8000-000000000000"}, "state": {"type": "SCHEDULED"}}
    path = f"/deployments/{deployment(stack)}/create_flow_run"
    flow_run = f"/flow_runs/{ask(stack, 'POST', path, json=wanted).json()['id']}"

    def state():
        return ask(stack, "GET", flow_run).json()["state_type"]

    wait_until(lambda: state() == "RUNNING")
    ask(stack, "POST", f"{flow_run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    wait_until(lambda: state() == "CANCELLED")


# Other users.


_LOOK_AROUND = """
def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""

def ask(method, path, body=None):
    request = urllib.request.Request(sys.argv[2] + path, data=body, method=method)
    try:
        return urllib.request.urlopen(request).read()
    except urllib.error.HTTPError as error:
        return f"{error.code}".encode()

pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
seen = [read(pathlib.Path("/proc", pid, name)) for pid in pids for name in ("cmdline", "environ")]
state = pathlib.Path(sys.argv[1])
seen += [read(state / name) for name in ("prefect-auth-string", "tiled-api-key", "stack.json", "logs/prefect.log")]
assert any(b"stack.serve" in one for one in seen), "nothing to be seen at all"
seen.append(b" ".join([
    ask("POST", "/api/flow_runs/filter", b"{}"),
    ask("POST", f"/api/deployments/{sys.argv[3]}/create_flow_run", b'{"name": "hostile"}'),
    ask("POST", "/bluesky-prefect/links"),
    ask("POST", "/bluesky-prefect/sign-in", b"guess"),
]))
sys.stdout.buffer.write(b"\\n".join(seen))
"""


_WAYS_OUT = [
    "/ui/{}", "/ui//{}", "/ui/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{}", "//ui/{}",
    "/ui/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{}", "/ui/%2f{}", "/ui/..%5c..%5c{}",
]  # fmt: skip


@pytest.mark.parametrize("way", _WAYS_OUT)
def test_tiled_serves_no_file_of_this_machine_but_those_of_its_ui(stack, way):
    url = httpx.URL(stack.tiled_uri)
    path = way.format(stack.prefect_auth_string_path)
    with create_connection((url.host, url.port), timeout=30) as client:
        # As it stands: a client of HTTP would tidy the path.
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 200"))
    assert user_of(stack).encode() not in answer


def test_another_user_neither_finds_the_password_nor_starts_anything(stack):
    with reachable(stack.state_directory):
        asked = [str(stack.state_directory), stack.prefect_ui_url, deployment(stack)]
        seen = said_by(as_nobody(_LOOK_AROUND, *asked))
    assert user_of(stack) not in seen
    assert stack.tiled_api_key.get_secret_value() not in seen
    assert hostile_flow_runs(stack) == []
    assert seen.splitlines()[-1] == "401 401 401 403"


# The person who opens the UI.


@pytest.mark.parametrize("version", [1, 2])
def test_a_link_signs_a_browser_in_to_both_uis_and_works_once(stack, browser, tmp_path, version):
    link = sign_in_url(stack)
    start_something(stack)
    with closing(browser.new_context()) as context:
        page = context.new_page()
        sign_in(page, link)
        PrefectUi(page, stack.prefect_ui_url, tmp_path, version=version).open_runs()
        assert page.evaluate("location.hash") == ""
        # For this browser it goes on being the way to the flow runs.
        sign_in(page, link)
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(link)
        page.get_by_text("bluesky-prefect ui").wait_for()
        assert page.evaluate("localStorage.getItem('prefect-password')") is None
    token = link.partition("#")[2]
    assert not [log for log in stack.logs.iterdir() if token in log.read_text(errors="replace")]


def start_something(stack):
    body = {"state": {"type": "COMPLETED", "name": "Completed"}, "parameters": {"ref": "nothing"}}
    ask(stack, "POST", f"/deployments/{deployment(stack)}/create_flow_run", json=body).raise_for_status()


def test_the_password_is_kept_for_127_0_0_1_alone(stack, page):
    """Another user may listen at ::1, which localhost is a name of."""
    url = stack.prefect_ui_url.replace("127.0.0.1", "localhost")
    page.goto(f"{url}/runs")
    assert page.url.startswith(stack.prefect_ui_url)


def test_the_command_prints_a_link(stack):
    command = [sys.executable, "-m", "bluesky_prefect", "ui", "--state-directory", str(stack.state_directory)]
    link = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert link.startswith(f"{stack.prefect_ui_url}{SIGN_IN}#")
    token = link.partition("#")[2]
    answer = httpx.post(f"{stack.prefect_ui_url}{SIGN_IN}", content=token, timeout=30).raise_for_status()
    assert answer.headers["cache-control"] == "no-store"
    assert httpx.post(f"{stack.prefect_ui_url}{SIGN_IN}", content=token, timeout=30).status_code == 403


def test_the_command_prints_a_link_that_signs_a_browser_in_to_tiled_once(stack):
    command = [
        sys.executable,
        "-m",
        "bluesky_prefect",
        "ui",
        "--tiled",
        "--state-directory",
        str(stack.state_directory),
    ]
    link = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert link.startswith(f"{stack.tiled_uri}{SIGN_IN}#")
    token = link.partition("#")[2]
    browser, another = (httpx.Client(base_url=stack.tiled_uri, timeout=30) for _ in range(2))
    with browser, another:
        assert browser.get("/api/v1/metadata/raw").status_code == 401
        assert browser.post(SIGN_IN, content=token).status_code == 200
        assert browser.get("/api/v1/metadata/raw").status_code == 200
        assert another.post(SIGN_IN, content=token).status_code == 403
        assert another.get("/api/v1/metadata/raw").status_code == 401


# Stacks from before.


class OldPrefectServer(PrefectServer):
    """As it was before it asked for a password."""

    def command(self):
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--analytics-off"]
        return [sys.executable, "-P", "-m", "prefect", "server", "start", *options]


def test_a_server_without_a_password_is_started_anew_by_up_which_says_so(own_stack):
    local: LocalStack = own_stack()
    for directory in (local.paths.root, local.paths.logs):
        make_private_directory(directory)
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    startup = Startup(local.paths, {}, print)
    startup.start(OldPrefectServer(local.paths, port, None))
    startup.wait(lambda _: None)
    assert local.find() is None
    said = []
    new = local.up(said.append)
    assert next(line for line in said if line.startswith("Prefect server:")) == (
        "Prefect server: restarting, since an older version has started it, open to other users of this machine"
        " (takes up to a minute)"
    )
    assert httpx.get(f"{new.prefect_api_url}/admin/version", timeout=30).status_code == 401
