"""The log of services, for people and for programs."""

import json
import logging
import os
import re
import signal
import subprocess
import sys

import pytest

from bluesky_prefect.cli._service_log import _JSONLines
from tests.services.prefect_process import wait_until

SERVICES = {"courier": "The courier of", "listen zmq 127.0.0.1:9": "Runs start my-workflow/local"}


@pytest.fixture
def log_of(tmp_path):
    """The log of a service that has begun, and was told to end, with no server there."""

    def run(service, **settings):
        environment = {**os.environ, "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path / "state"), **settings}
        log = tmp_path / "log"
        with log.open("w") as written:
            command = [sys.executable, "-m", "bluesky_prefect", *service.split()]
            process = subprocess.Popen(command, env=environment, stderr=written)
        try:
            wait_until(lambda: SERVICES[service] in log.read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        return log.read_text().splitlines()

    return run


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_logs_a_json_object_a_line_if_that_is_set(log_of, service):
    records = [json.loads(line) for line in log_of(service, BLUESKY_PREFECT_LOG_FORMAT="json")]
    begun = next(one for one in records if SERVICES[service] in one["message"])
    assert (begun["level"], begun["logger"].partition(".")[0]) == ("INFO", "bluesky_prefect")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", begun["time"])


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_logs_lines_of_text_otherwise(log_of, service):
    assert re.match(r"\d{4}-\d\d-\d\d \S+ INFO ", log_of(service)[-1])


def test_no_record_makes_more_than_one_line():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "not %s\n\ud800", ("so",), sys.exc_info())
    [line] = _JSONLines().format(record).splitlines()
    said = json.loads(line)
    assert said["message"] == "not so\n\ud800"
    assert said["traceback"].endswith("ValueError: two\nlines")
