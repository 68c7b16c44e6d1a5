"""Metrics and health over HTTP."""

import json
import logging
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from bluesky_prefect import Outbox, Settings
from bluesky_prefect.core import Submission
from bluesky_prefect.metrics import Signals, serve_metrics
from tests.services.prefect_process import wait_until


class Served:
    """What a process serves, as Prometheus sees it."""

    def __init__(self, port, signals, outbox):
        self.port = port
        self.signals = signals
        self.outbox = outbox

    def get(self, path, accept="*/*", **headers):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept, **headers})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def open_process(tmp_path):
    with ExitStack() as opened:

        def open_one(**values):
            settings = Settings(state_directory=tmp_path, **{"metrics_port": 0, **values})
            signals = Signals()
            outbox = Outbox(settings.outbox_path)
            opened.callback(outbox.close)
            port = opened.enter_context(serve_metrics(settings, signals, [outbox], process="listener"))
            return Served(port, signals, outbox)

        yield open_one


def test_metrics_are_served_as_prometheus_reads_them(open_process):
    process = open_process()
    process.outbox.put(Submission("a", "one", "flow/one", "a"))
    status, content_type, text = process.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"bluesky_prefect_submissions_waiting", "process_resident_memory_bytes"} <= names
    # A process without journals has no metrics of them.
    assert not any("journals" in name for name in names)


def test_metrics_are_served_as_openmetrics_to_who_asks_for_that(open_process):
    process = open_process()
    process.outbox.put(Submission("a", "one", "flow/one", "a"))
    _, content_type, text = process.get("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert "bluesky_prefect_submissions_sent" in {one.name for one in openmetrics_families(text)}


def test_single_metrics_can_be_asked_for(open_process):
    _, _, text = open_process().get("/metrics?name[]=bluesky_prefect_healthy")
    assert [family.name for family in text_string_to_metric_families(text)] == ["bluesky_prefect_healthy"]


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
@pytest.mark.parametrize(("host", "status"), [("a.page:{port}", 403), ("localhost:{port}", 200), ("[::1]", 200)])
def test_a_browser_that_a_page_leads_here_by_another_name_is_told_nothing(open_process, path, host, status):
    process = open_process()
    answered, _, text = process.get(path, Host=host.format(port=process.port))
    assert answered == status
    assert (status == 200) is ("healthy" in text or "waiting" in text)


def test_where_metrics_are_served_to_other_machines_any_name_will_do(open_process):
    process = open_process(metrics_host="0.0.0.0")
    assert process.get("/healthz", Host="tst-ws1:9464")[0] == 200


def test_health_is_200_while_the_process_does_its_work(open_process):
    process = open_process()
    process.outbox.put(Submission("a", "one", "flow/one", "a"))
    process.signals.tiled.down("refused")
    status, content_type, text = process.get("/healthz")
    answer = json.loads(text)
    assert (status, content_type, answer["ok"], answer["problems"]) == (200, "application/json", True, [])
    assert (answer["process"], answer["waiting"], answer["dead"], answer["journals"]) == ("listener", 1, 0, None)
    assert answer["prefect"] is None
    assert (answer["tiled"]["is_up"], answer["tiled"]["reason"]) == (False, "refused")


def test_health_is_503_with_the_reason_when_it_does_not(open_process):
    process = open_process()
    process.signals.trouble("outbox", "The disk is full.")
    status, _, text = process.get("/healthz")
    assert status == 503
    assert json.loads(text)["problems"] == ["The disk is full."]


def test_health_is_503_when_the_outbox_cannot_be_opened(open_process, tmp_path):
    (tmp_path / "outbox.sqlite").mkdir()
    status, _, text = open_process().get("/healthz")
    assert status == 503
    assert "outbox.sqlite" in text


def test_other_paths_are_not_found(open_process):
    status, _, text = open_process().get("/")
    assert status == 404
    assert "/metrics" in text


def test_nothing_is_served_and_nothing_imported_where_no_port_is_set(tmp_path):
    code = (
        "import sys\nfrom bluesky_prefect import Settings\nfrom bluesky_prefect.metrics import Signals, serve_metrics\n"
        "with serve_metrics(Settings(), Signals(), [], process='courier') as port:\n"
        "    print(port, 'prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


def test_a_port_in_use_is_told_in_one_line_and_the_process_goes_on(open_process, caplog):
    with caplog.at_level(logging.INFO):
        first = open_process()
        second = open_process(metrics_port=first.port)
    told = [record for record in caplog.records if record.name.startswith("bluesky_prefect")]
    assert [record.levelname for record in told] == ["INFO", "WARNING"]
    assert told[0].getMessage() == f"Metrics are at http://127.0.0.1:{first.port}/metrics"
    assert f"port {first.port}: Address already in use" in told[1].getMessage()
    assert "BLUESKY_PREFECT_METRICS_PORT" in told[1].getMessage()
    assert second.port is None
    assert first.get("/healthz")[0] == 200


def test_a_host_that_is_not_this_machine_s_is_told_in_one_line(open_process, caplog):
    assert open_process(metrics_host="203.0.113.1").port is None
    assert "Metrics are not served at 203.0.113.1" in caplog.text


def test_a_missing_extra_is_told_in_one_line(open_process, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert open_process().port is None
    assert "Install bluesky-prefect[metrics]" in caplog.text


def test_who_connects_and_says_nothing_keeps_nobody_waiting(open_process):
    process = open_process()
    with ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(socket.create_connection(("127.0.0.1", process.port)))
        assert process.get("/healthz")[0] == 200


def test_strangers_take_a_bounded_number_of_threads_and_lock_nobody_out(open_process):
    process = open_process()
    before = threading.active_count()
    with ExitStack() as opened:
        for _ in range(200):
            opened.enter_context(socket.create_connection(("127.0.0.1", process.port)))
        assert process.get("/healthz")[0] == 200
        # Long before any of them is given up for its silence.
        wait_until(lambda: threading.active_count() <= before + 40, timeout_s=5)


def test_the_port_is_free_again_once_the_block_has_ended(tmp_path):
    settings = Settings(state_directory=tmp_path, metrics_port=0)
    with serve_metrics(settings, Signals(), [], process="courier") as port:
        pass
    again = Settings(state_directory=tmp_path, metrics_port=port)
    with serve_metrics(again, Signals(), [], process="courier") as served:
        assert served == port
