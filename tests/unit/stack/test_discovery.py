import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from bluesky_prefect.core import Settings, get_settings, load_workflows, prefect_url
from bluesky_prefect.prefect_api import runs_url
from bluesky_prefect.session._flow_functions import _require_prefect
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.stack import LocalStack, Service, describe, prefect_service, probe, start_or_check, use_services
from bluesky_prefect.stack._absence import require_services
from bluesky_prefect.stack._http import PROBE_TIMEOUT_S
from bluesky_prefect.stack._info import StackPaths, stack_info
from bluesky_prefect.stack._keys import StackKeys
from tests.services.prefect_process import wait_until


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1] or 200))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def server() -> Iterator[str]:
    yield from _serving(_Answers)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("status", [200, 401, 404])
def test_whatever_answers_is_there(server: str, status: int):
    assert probe(f"{server}/{status}").problem == ""


def test_a_server_in_trouble_is_not_there(server: str):
    assert probe(f"{server}/503").problem == "answers 503"


def test_a_refused_connection_is_named(free_port: int):
    assert "refused" in probe(f"http://127.0.0.1:{free_port}").problem


def test_an_address_that_is_none_is_named():
    assert "write http://host:port/path" in probe("nonsense").problem


def test_a_server_that_says_nothing_costs_no_more_than_the_time_allowed():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        begin = time.monotonic()
        problem = probe(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2).problem

    assert problem
    assert time.monotonic() - begin < 1


def test_a_server_that_is_busy_for_a_moment_is_there_for_whoever_has_patience(caplog):
    busy = threading.Event()

    class Busy(_Answers):
        def do_GET(self) -> None:
            busy.wait(30)
            super().do_GET()

    def answer_the_second_time() -> None:
        wait_until(lambda: "waiting for it" in caplog.text)
        busy.set()

    with contextmanager(_serving)(Busy) as url:
        threading.Thread(target=answer_the_second_time).start()
        assert probe(f"{url}/200", timeout_s=0.2, patience_s=30).problem == ""
        assert f"No answer yet at {url}/200; waiting for it, 30 s at most ..." in caplog.text


@pytest.mark.parametrize("asks", ["a command", "the prompt"])
def test_servers_that_take_longer_than_a_second_are_there_for(asks, monkeypatch, tmp_path, caplog):
    class Slow(_Answers):
        def do_GET(self) -> None:
            time.sleep(PROBE_TIMEOUT_S + 0.5)
            with suppress(BrokenPipeError):  # who asked first has gone
                super().do_GET()

    with contextmanager(_serving)(Slow) as url:
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/200/api")
        settings = Settings(state_directory=tmp_path, tiled_uri=f"{url}/200")
        if asks == "a command":
            require_services(settings)
        else:
            _require_prefect()
            TiledConnection(settings).require()
    assert caplog.text.count("No answer yet at") == 2


def test_a_name_look_up_that_hangs_costs_no_more_than_the_time_allowed(monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()
    # Nothing but a resolver of one's own hangs on demand.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
    begin = time.monotonic()

    problem = probe("http://tiled.example", timeout_s=0.2).problem

    assert problem == "no answer in 0.2 s"
    assert time.monotonic() - begin < 1
    release.set()


def _service(name: str, problem: str = "", url: str = "http://127.0.0.1:1") -> Service:
    return Service(name, url, problem, f"no {name} no fun", start_or_check(url, f"{name.upper()}_URL"))


def test_one_line_says_what_is_missing_and_how_to_start_it():
    line = describe([_service("Tiled", "refused"), _service("Prefect")])

    assert "\n" not in line
    assert "No Tiled (Tiled: http://127.0.0.1:1: refused)" in line
    assert line.endswith("Start with: bluesky-prefect up")
    assert "Prefect" not in line.replace("bluesky-prefect", "")


def test_one_line_says_it_of_both():
    line = describe([_service("Tiled", "none named", url=""), _service("Prefect", "refused")])

    assert line.startswith("No Tiled, no Prefect (")
    assert line.count("bluesky-prefect up") == 1


def test_a_server_elsewhere_is_not_for_the_local_stack_to_start():
    line = describe([_service("Tiled", "refused", url="https://tiled.example.org")])

    assert line.endswith("Check TILED_URL")


def test_with_all_there_the_line_says_where():
    assert describe([_service("Tiled"), _service("Prefect")]) == (
        "Tiled: http://127.0.0.1:1; Prefect: http://127.0.0.1:1"
    )


@pytest.fixture
def no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> Iterator[None]:
    monkeypatch.setenv("BLUESKY_PREFECT_STATE_DIRECTORY", str(tmp_path))
    # On the usual one the developer's own stack may be.
    monkeypatch.setenv("BLUESKY_PREFECT_PREFECT_PORT", str(free_port))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("no_stack")
def test_without_a_stack_prefect_is_where_the_stack_will_be(free_port: int):
    environment = {"PREFECT_HOME": "/nowhere"}

    use_services(environment)

    assert environment["PREFECT_API_URL"] == f"http://127.0.0.1:{free_port}/api"


@pytest.mark.usefixtures("no_stack")
def test_a_prefect_that_the_environment_names_stays():
    environment = {"PREFECT_API_URL": "https://prefect.example.org/api"}

    use_services(environment)

    assert environment["PREFECT_API_URL"] == "https://prefect.example.org/api"


@pytest.mark.usefixtures("no_stack")
def test_a_prefect_that_its_active_profile_names_stays(tmp_path: Path):
    (tmp_path / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "https://prefect.example.org/api"\n'
    )
    environment = {"PREFECT_HOME": str(tmp_path)}

    use_services(environment)

    assert "PREFECT_API_URL" not in environment
    assert prefect_url(environment) == "https://prefect.example.org/api"


@pytest.mark.usefixtures("no_stack")
def test_a_password_in_prefect_s_address_is_taken_out_of_it():
    environment = {"PREFECT_API_URL": "https://ada:s3%2Fcret@prefect.example.org/api"}

    use_services(environment)

    assert environment["PREFECT_API_URL"] == "https://prefect.example.org/api"
    assert environment["PREFECT_API_AUTH_STRING"] == "ada:s3/cret"


@pytest.mark.parametrize("content", ["", "active = 'gone'", "not toml", "profiles = 3"])
def test_a_profile_file_that_names_none_is_none(tmp_path: Path, content: str):
    (tmp_path / "profiles.toml").write_text(content)

    assert prefect_url({"PREFECT_HOME": str(tmp_path)}) == ""


class _WantsBasic(_Answers):
    def do_GET(self) -> None:
        right = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ada:s3cret").decode()
        self.send_response(200 if right or self.path == "/api/health" else 401)
        self.end_headers()


@pytest.fixture
def closed_server() -> Iterator[str]:
    yield from _serving(_WantsBasic)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, closed_server: str, tmp_path: Path) -> Callable[..., str]:
    """What the greeting says of Prefect in a session with these settings."""

    def greet(**settings: str) -> str:
        defaults = {"PREFECT_API_URL": f"{closed_server}/api", "PREFECT_HOME": str(tmp_path)}
        for name, value in {**defaults, **settings}.items():
            monkeypatch.setenv(name, value)
        return describe([prefect_service()])

    return greet


def test_prefect_with_the_right_credentials_is_there(session, closed_server):
    assert session(PREFECT_API_AUTH_STRING="ada:s3cret") == f"Prefect: {runs_url(closed_server)}"


@pytest.mark.parametrize("wrong", [{"PREFECT_API_AUTH_STRING": "ada:wr0ng"}, {"PREFECT_API_KEY": "wr0ng"}])
def test_credentials_that_prefect_refuses_are_said_with_the_setting_to_check(session, wrong):
    line = session(**wrong)

    assert "refuses the credentials" in line
    assert line.endswith("Check PREFECT_API_AUTH_STRING or PREFECT_API_KEY")
    assert "wr0ng" not in line


def test_a_prefect_that_wants_credentials_where_none_are_set_is_said(session):
    assert "wants credentials, and none are set" in session()


def test_credentials_in_prefect_s_active_profile_count(session, tmp_path: Path, closed_server):
    (tmp_path / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_AUTH_STRING = "ada:s3cret"\n'
    )

    assert session() == f"Prefect: {runs_url(closed_server)}"


def test_credentials_in_the_address_count_and_are_not_shown(session, closed_server):
    host = closed_server.removeprefix("http://")

    assert session(PREFECT_API_URL=f"http://ada:s3cret@{host}/api") == f"Prefect: {runs_url(closed_server)}"
    assert "s3cret" not in session(PREFECT_API_URL=f"http://nobody:s3cret@{host}/api")


def test_an_address_with_a_password_and_no_server_does_not_show_the_password(session):
    for url in ("http://ada:s3cret@127.0.0.1:9/api", "http://ada:s3cret@127.0.0.1/api", "http://ada:s3cret@[::1/api"):
        assert "s3cret" not in session(PREFECT_API_URL=url)


# Which password goes to which server.


KEYS = StackKeys(SecretStr("t1led"), SecretStr("bluesky:passw0rd"))
STACK = "http://127.0.0.1:4200/api"
ELSEWHERE = "https://prefect.example.org/api"


@pytest.fixture
def running_stack(no_stack: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = stack_info(Settings(state_directory=tmp_path), {"tiled": 8000, "prefect": 4200}, KEYS)
    monkeypatch.setattr(LocalStack, "find", lambda _: info)


@pytest.mark.usefixtures("running_stack")
@pytest.mark.parametrize("named", [{}, {"PREFECT_API_URL": STACK}, {"PREFECT_API_AUTH_STRING": "ada:0f-elsewhere"}])
def test_the_stack_s_password_goes_with_the_stack_s_address(named):
    environment = {"PREFECT_HOME": "/nowhere", **named}

    use_services(environment)

    assert environment["PREFECT_API_URL"] == STACK
    assert environment["PREFECT_API_AUTH_STRING"] == "bluesky:passw0rd"


@pytest.mark.usefixtures("running_stack")
@pytest.mark.parametrize("credentials", [{}, {"PREFECT_API_AUTH_STRING": "ada:0f-elsewhere"}])
def test_the_stack_s_password_does_not_go_to_another_prefect(credentials, tmp_path: Path):
    environment = {"PREFECT_API_URL": ELSEWHERE, **credentials}

    use_services(environment)

    assert "passw0rd" not in str(environment)
    assert environment.get("PREFECT_API_AUTH_STRING") == credentials.get("PREFECT_API_AUTH_STRING")

    (tmp_path / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{ELSEWHERE}"\n')
    environment = {"PREFECT_HOME": str(tmp_path), **credentials}
    use_services(environment)
    assert "passw0rd" not in str(environment)


@pytest.mark.usefixtures("no_stack")
def test_a_session_of_a_beamline_before_the_stack_starts_what_the_stack_will_have(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLUESKY_PREFECT_BEAMLINE", "tst")
    get_settings.cache_clear()
    environment = {"PREFECT_HOME": "/nowhere"}

    use_services(environment)

    assert environment["BLUESKY_PREFECT_WORKFLOWS"] == "bluesky_prefect.stack:WORKFLOWS"
    deployments = {workflow.deployment for workflow in load_workflows(environment["BLUESKY_PREFECT_WORKFLOWS"])}
    assert {one.rpartition("/")[2] for one in deployments} == {"local"}


@pytest.mark.usefixtures("no_stack")
def test_a_session_before_the_stack_has_the_password_of_the_stack(tmp_path: Path):
    environment = {"PREFECT_HOME": "/nowhere", "PREFECT_API_AUTH_STRING": "ada:0f-elsewhere"}

    use_services(environment, make_keys=True)

    assert environment["PREFECT_API_AUTH_STRING"] == StackKeys.load(StackPaths(tmp_path)).prefect.get_secret_value()


@pytest.mark.usefixtures("no_stack")
def test_a_command_that_only_looks_makes_no_keys_and_sends_no_other_server_s(tmp_path: Path):
    environment = {"PREFECT_HOME": "/nowhere", "PREFECT_API_AUTH_STRING": "ada:0f-elsewhere"}

    use_services(environment)

    assert not environment["PREFECT_API_AUTH_STRING"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_stack")
def test_what_was_told_of_a_stack_is_sent_to_nobody_who_took_its_port(server: str, free_port: int, tmp_path: Path):
    keys = StackKeys.load_or_make(StackPaths(tmp_path))
    secret = keys.prefect.get_secret_value()

    environment = {"PREFECT_API_URL": f"{server}/api", "PREFECT_API_AUTH_STRING": secret}
    use_services(environment)
    assert "PREFECT_API_AUTH_STRING" not in environment

    environment = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port}/api", "PREFECT_API_AUTH_STRING": secret}
    use_services(environment)
    assert environment["PREFECT_API_AUTH_STRING"] == secret


@pytest.mark.usefixtures("no_stack")
def test_no_proxy_is_asked_for_the_servers_of_this_machine():
    environment = {"PREFECT_HOME": "/nowhere", "http_proxy": "http://proxy.example:3128", "no_proxy": "intranet"}

    use_services(environment)

    assert environment["no_proxy"].split(",") == ["intranet", "127.0.0.1", "localhost"]


# A server that asks nobody for a password.


@pytest.fixture
def named_elsewhere(server: str, closed_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Have a name of another machine lead to a server on this one, since nothing here may listen for others."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve(host.replace("prefect.beamline", "127.0.0.1"), *rest, **more),
    )
    return lambda url: url.replace("127.0.0.1", "prefect.beamline")


@pytest.mark.parametrize("credentials", [{}, {"PREFECT_API_AUTH_STRING": "ada:s3cret"}])
def test_a_prefect_that_other_machines_reach_without_a_password_is_told_of(
    session, server, named_elsewhere, credentials
):
    url = named_elsewhere(f"{server}/200")
    line = session(PREFECT_API_URL=url, **credentials)

    assert line.startswith(f"Prefect: {runs_url(url)} Prefect at {url} asks for no password")
    assert line.count("PREFECT_SERVER_API_AUTH_STRING") == 1


def test_a_prefect_that_wants_a_password_or_is_on_this_machine_is_not(session, server, closed_server, named_elsewhere):
    url = named_elsewhere(closed_server)
    assert session(PREFECT_API_URL=f"{url}/api", PREFECT_API_AUTH_STRING="ada:s3cret") == f"Prefect: {runs_url(url)}"
    assert session(PREFECT_API_URL=f"{server}/200") == f"Prefect: {runs_url(f'{server}/200')}"
