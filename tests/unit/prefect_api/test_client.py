"""What each answer of a Prefect server means, from a real HTTP server that gives it."""

import json
import logging
import socket
import threading
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from bluesky_prefect.core import DeploymentMissing, PrefectUnavailable, Submission, SubmissionRefused
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.prefect_api._flow_run_name import flow_run_name, flow_run_tags
from tests.services.prefect_stand_in import PrefectStandIn

SUBMISSION = Submission("k", "w", "flow/one", "0123456789", {"scan_id": 7, "plan_name": "count"}, {})


class Handler(BaseHTTPRequestHandler):
    """Gives every request the answer of its server."""

    def do_GET(self) -> None:
        if self.server.hang.is_set():
            self.server.release.wait(10)
            return
        self.server.requests += 1
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def date_time_string(self, timestamp=None) -> str:
        return self.server.date or super().date_time_string(timestamp)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = 0
    server.bodies = []
    server.date = ""
    server.hang = threading.Event()
    server.release = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def url(server):
    return f"http://127.0.0.1:{server.server_port}/api"


@pytest.fixture
def create(server):
    """Ask the server for a flow run."""

    def create(status, body=b"{}", headers=None, timeout_s=5.0):
        server.answer = (status, headers or {}, body)
        with temporary_settings({PREFECT_API_URL: url(server)}), PrefectApi(timeout_s) as api:
            return api.create_flow_run(SUBMISSION)

    return create


@pytest.fixture
def stand_in():
    """A Prefect that is well, but for what a test sets."""
    with closing(PrefectStandIn().start()) as stand_in, temporary_settings({PREFECT_API_URL: stand_in.url}):
        yield stand_in


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_server_that_cannot_answer_now_is_an_outage(create, status):
    with pytest.raises(PrefectUnavailable, match=str(status)):
        create(status)


def test_the_time_that_a_server_asks_for_is_known(create):
    with pytest.raises(PrefectUnavailable) as error:
        create(429, headers={"Retry-After": "17"})
    assert error.value.retry_after_s == 17


@pytest.mark.parametrize("status", [429, 503, 500])
def test_one_try_is_one_request_and_no_sleep(create, server, status, monkeypatch):
    monkeypatch.setattr("prefect.client.base.time.sleep", lambda _: pytest.fail("Prefect's client sleeps"))
    with pytest.raises(PrefectUnavailable):
        create(status)
    assert server.requests == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429, 403])
def test_a_trouble_of_the_whole_server_is_no_submission_s(create, status):
    with pytest.raises(PrefectUnavailable) as error:
        create(status)
    assert not error.value.submission_specific


def blames_the_submission(api, stand_in, status):
    stand_in.troubles[SUBMISSION.key] = status
    with pytest.raises(PrefectUnavailable) as error:
        api.create_flow_run(SUBMISSION)
    return error.value.submission_specific


@pytest.mark.parametrize("status", [500, 502, 503, 403])
def test_a_trouble_is_a_submission_s_own_if_prefect_answers_otherwise(stand_in, status):
    with PrefectApi(5) as api:
        assert blames_the_submission(api, stand_in, status)


@pytest.mark.parametrize(("status", "knows"), [(500, True), (502, True), (403, True), (503, True), (0, False)])
def test_whose_trouble_it_is_is_known_by_the_second_attempt_at_the_latest(stand_in, status, knows):
    with PrefectApi(0.5) as api:
        api.create_flow_run(replace(SUBMISSION, key="another"))
        assert blames_the_submission(api, stand_in, status) is knows
        assert blames_the_submission(api, stand_in, status)


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_request_that_is_refused_will_not_be_repeated(create, status):
    with pytest.raises(SubmissionRefused, match="too bad"):
        create(status, json.dumps({"detail": "too bad"}).encode())


@pytest.mark.parametrize("status", [302, 400, 402, 405, 407, 410, 421, 422, 426, 451])
def test_an_answer_of_something_between_here_and_prefect_is_no_refusal(create, status):
    with pytest.raises(PrefectUnavailable, match=f"{status}.*nothing of what was asked") as error:
        create(status, b"<html>We are back soon.</html>")
    assert not error.value.submission_specific


@pytest.mark.parametrize(("status", "said"), [(402, "Pay first"), (405, "Method Not Allowed")])
def test_what_tells_nothing_of_a_submission_refuses_none(create, status, said):
    # A redirection from http to https makes GET of POST, which Prefect itself answers so.
    with pytest.raises(PrefectUnavailable, match=said):
        create(status, json.dumps({"detail": said}).encode())


def test_a_request_that_is_too_large_for_a_proxy_will_not_be_repeated(create):
    with pytest.raises(SubmissionRefused, match="413"):
        create(413, b"<html>Request Entity Too Large</html>")


@pytest.mark.parametrize("status", [409, 422, 500, 503])
def test_no_answer_of_a_server_adds_a_line_to_what_is_told(create, status):
    with pytest.raises((SubmissionRefused, PrefectUnavailable)) as error:
        create(status, "too bad\nERROR forged \x1b[2J \u2028 \u202e".encode())
    assert r"too bad\nERROR forged \u001b[2J \u2028 \u202e" in str(error.value)
    assert str(error.value).isprintable()


def test_an_unknown_deployment_is_named_with_the_way_to_make_it(create):
    with pytest.raises(DeploymentMissing, match=r"flow/one.*bluesky-prefect deploy FILE.py:FUNCTION --name one"):
        create(404)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_says_which_settings_to_check(create, status):
    with pytest.raises(PrefectUnavailable, match="PREFECT_API_AUTH_STRING or PREFECT_API_KEY"):
        create(status)


@pytest.mark.parametrize("body", [b"<html>a proxy's page</html>", b"[]", b'{"id": 1}', b"\xff\xfe"])
def test_an_answer_that_is_not_prefects_says_to_check_the_address(create, body):
    with pytest.raises(PrefectUnavailable, match="Check PREFECT_API_URL"):
        create(200, body)


def test_a_server_that_accepts_and_never_answers_is_an_outage(create, server):
    server.hang.set()
    with pytest.raises(PrefectUnavailable, match="ReadTimeout"):
        create(200, timeout_s=0.3)


def test_nobody_listening_is_an_outage():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    with (
        temporary_settings({PREFECT_API_URL: url}),
        PrefectApi(1.0) as api,
        pytest.raises(PrefectUnavailable, match="cannot be reached"),
    ):
        api.create_flow_run(SUBMISSION)


def test_no_address_at_all_starts_no_server_and_says_how_to_set_one():
    with PrefectApi(1.0) as api, pytest.raises(PrefectUnavailable, match="PREFECT_API_URL"):
        api.create_flow_run(SUBMISSION)


def test_a_flow_run_is_named_after_scan_plan_and_uid():
    assert flow_run_name(SUBMISSION) == "scan-7-count-01234567"
    assert flow_run_tags(SUBMISSION) == ["scan_id:7", "plan_name:count", "uid:0123456789"]


def test_a_flow_run_says_of_which_beamline_it_is():
    assert "beamline:tst" in flow_run_tags(replace(SUBMISSION, beamline="tst"))


def test_a_flow_run_that_does_it_again_says_so_in_its_name():
    assert flow_run_name(replace(SUBMISSION, generation=2)) == "scan-7-count-01234567-again-2"


def test_a_run_of_which_little_is_known_still_has_a_name():
    bare = Submission("k", "w", "flow/one", "0123456789")
    assert flow_run_name(bare) == "run-01234567"
    assert flow_run_tags(bare) == ["uid:0123456789"]


def test_names_made_of_hostile_metadata_are_short_and_printable():
    hostile = Submission("k", "w", "flow/one", "u" * 500, {"scan_id": 1, "plan_name": "x\n\x1b[31m" + "y" * 10**6}, {})
    name = flow_run_name(hostile)
    assert len(name) < 200
    assert name.isprintable()
    assert all(tag.isprintable() and len(tag) <= 200 for tag in flow_run_tags(hostile))


@pytest.fixture
def check(server):
    """Ask the server for a deployment before there is anything to send."""

    def check(status, body=b"{}"):
        server.answer = (status, {}, body)
        url = f"http://ada:s3cret@127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: url}), PrefectApi(5.0) as api:
            api.check("flow/one")

    return check


@pytest.mark.parametrize(
    ("status", "trouble", "words"),
    [
        (401, PrefectUnavailable, "PREFECT_API_AUTH_STRING or PREFECT_API_KEY"),
        (404, DeploymentMissing, "flow/one"),
        (422, DeploymentMissing, "flow/one"),
        (503, PrefectUnavailable, "503"),
    ],
)
def test_a_check_tells_what_would_keep_submissions_waiting_and_no_password(check, status, trouble, words):
    with pytest.raises(trouble, match=words) as error:
        check(status)
    assert "s3cret" not in str(error.value)


@pytest.fixture
def sent(create, server):
    """Create a flow run and return what the server was sent."""

    def sent(**content):
        some_id = "00000000-0000-4000-8000-000000000000"
        schema = {"properties": {"ref": {}, "start_doc": {}}}
        # One that passes for a deployment, a flow run and a CSRF token.
        answer = {"id": some_id, "name": "one", "flow_id": some_id, "parameter_openapi_schema": schema, **content}
        answer |= {"token": "t", "client": "c", "expiration": "2100-01-01T00:00:00Z"}
        sent.flow_run = create(200, json.dumps(answer).encode())
        [body] = server.bodies
        return body

    return sent


@pytest.mark.parametrize("day", ["01 Jan 2026", "01 Jan 2126"])
def test_a_flow_run_is_due_at_once_by_the_clock_of_the_server(sent, server, day):
    server.date = f"Thu, {day} 00:00:00 GMT"
    due = f"{day[-4:]}-01-01T00:00:00"
    body = json.loads(sent(expected_start_time=f"{due}Z"))
    assert body["state"]["state_details"]["scheduled_time"].startswith(due)
    assert sent.flow_run.is_new


def test_a_flow_run_is_due_at_once_where_the_clocks_agree(sent):
    due = json.loads(sent())["state"]["state_details"]["scheduled_time"]
    assert abs(datetime.fromisoformat(due).timestamp() - time.time()) < 5


def test_what_prefect_is_sent_is_json_and_holds_the_parameters_as_they_are(sent):
    body = sent()
    assert json.loads(body)["parameters"] == {"ref": "0123456789", "start_doc": {"scan_id": 7, "plan_name": "count"}}
    assert json.loads(body)["idempotency_key"] == "k"


def test_a_deployment_mended_after_a_refusal_is_started_at_once(stand_in):
    with PrefectApi(timeout_s=5) as api:
        stand_in.required = ["ref", "sample"]
        with pytest.raises(SubmissionRefused, match="requires sample"):
            api.create_flow_run(SUBMISSION)
        stand_in.required = ["ref"]
        api.create_flow_run(SUBMISSION)
    assert list(stand_in.created) == [SUBMISSION.key]


def test_a_password_in_the_address_is_in_no_log_of_a_request(check, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DeploymentMissing):
        check(404)
    assert "HTTP Request: GET" in caplog.text
    assert "s3cret" not in caplog.text


def test_without_an_address_people_are_told_of_nothing_and_nothing_is_raised():
    with temporary_settings({PREFECT_API_URL: None}), PrefectApi(1) as api:
        api.prepare_notifications(["failure:slack/mon-beamline"])


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_server_that_refuses_automations_is_a_line_in_the_log(server, caplog, status):
    server.answer = (status, {}, b"{}")
    url = f"http://127.0.0.1:{server.server_port}/api"
    with temporary_settings({PREFECT_API_URL: url}), PrefectApi(5) as api:
        assert api.client is not None
        for _ in range(2):
            api.prepare_notifications(["failure:slack/mon-beamline"])
    [said] = [
        record.getMessage() for record in caplog.records if record.name == "bluesky_prefect.prefect_api._notifications"
    ]
    assert said.startswith("No message about a failure goes to slack/mon-beamline (flow runs are not affected): ")


def test_the_present_time_is_that_of_the_server(server):
    with temporary_settings({PREFECT_API_URL: url(server)}), PrefectApi(5) as api:
        server.answer = (200, {}, b"{}")
        for year, present in (("Thu, 01 Jan 2026", 1767225600), ("Fri, 01 Jan 2027", 1798761600)):
            server.date = f"{year} 00:00:00 GMT"
            api.client.hello()
            assert present <= api.now() < present + 1
        asked = server.requests
        assert api.now() >= 1798761600
        assert server.requests == asked


def test_a_server_that_says_no_time_leaves_it_to_this_machine(server):
    with temporary_settings({PREFECT_API_URL: url(server)}), PrefectApi(5) as api:
        server.answer, server.date = (200, {}, b"{}"), "soon"
        assert abs(api.now() - time.time()) < 1


@pytest.mark.parametrize("status", [0, 403, 500, 503])
def test_a_message_that_prefect_does_not_take_says_nothing_about_flow_runs(server, status):
    server.answer = (status, {}, b"{}")
    if status == 0:
        server.hang.set()
    message = replace(SUBMISSION, deployment="run-failure:slack/mon-beamline")
    with (
        temporary_settings({PREFECT_API_URL: url(server)}),
        PrefectApi(0.5) as api,
        pytest.raises(PrefectUnavailable) as caught,
    ):
        api.tell(message)
    assert caught.value.submission_specific
    assert caught.value.server_responded == (status >= 500)
