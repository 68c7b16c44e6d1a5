"""What Prometheus is told by a real courier, with real servers behind it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bluesky_prefect.core import Settings
from bluesky_prefect.courier import running_courier
from bluesky_prefect.metrics._collector import METRICS
from bluesky_prefect.stack import StackInfo
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import wait_until

DEPLOYMENT = "my-workflow/local"
DEPLOY = Path(__file__).parents[2] / "deploy"
# A session as at any beamline, which leaves both ways to the courier.
_SCAN = """
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det
from bluesky_prefect import PrefectCallback, RunRecorder

engine, callback = RunEngine(context_managers=[]), PrefectCallback()
engine.subscribe(RunRecorder())
engine.subscribe(callback)
engine(count([det], 2))
callback.close(0)
"""


class CourierProcess:
    """A courier of a state directory of its own, as Prometheus sees it."""

    def __init__(self, environment: dict[str, str], state: Path) -> None:
        self.state = state
        self.log = state.with_suffix(".log")
        self._environment = {**os.environ, **environment, "BLUESKY_PREFECT_STATE_DIRECTORY": str(state)}
        command = [sys.executable, "-m", "bluesky_prefect", "courier"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def port(self) -> int:
        told = wait_until(lambda: re.search(r"Metrics are at http://127.0.0.1:(\d+)/metrics", self.said()))
        return int(told[1])

    def said(self) -> str:
        assert self._process.poll() is None, self.log.read_text()
        return self.log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Return the values of this deployment, or of none, by their names without prefix; of all states together."""
        _, text = self.get("/metrics")
        values: Counter[str] = Counter()
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            if sample.labels.get("deployment", DEPLOYMENT) == DEPLOYMENT and "le" not in sample.labels:
                values[sample.name.removeprefix("bluesky_prefect_")] += sample.value
        return dict(values)

    def health(self) -> tuple[int, dict[str, Any]]:
        status, text = self.get("/healthz")
        return status, json.loads(text)

    def record(self) -> None:
        """Take a scan in a session beside it."""
        subprocess.run([sys.executable, "-c", _SCAN], env=self._environment, check=True, timeout=120)

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


@pytest.fixture
def prefect(stack: StackInfo) -> Iterator[FaultProxy]:
    with closing(FaultProxy(urlsplit(stack.prefect_api_url).port)) as proxy:
        yield proxy


@pytest.fixture
def tiled(stack: StackInfo) -> Iterator[FaultProxy]:
    with closing(FaultProxy(urlsplit(stack.tiled_uri).port)) as proxy:
        yield proxy


@pytest.fixture
def start_courier(
    stack: StackInfo, prefect: FaultProxy, tiled: FaultProxy, tmp_path: Path
) -> Iterator[Callable[..., CourierProcess]]:
    started: list[CourierProcess] = []
    workflows = tmp_path / "workflows.py"
    workflows.write_text(f"workflows = [{DEPLOYMENT!r}]\n")

    def start(**environment: str) -> CourierProcess:
        values = {
            **stack.environment(),
            "PREFECT_API_URL": f"{prefect.url}/api",
            "BLUESKY_PREFECT_TILED_URI": tiled.url,
            "BLUESKY_PREFECT_METRICS_PORT": "0",
            "BLUESKY_PREFECT_WORKFLOWS": f"{workflows}:workflows",
            "BLUESKY_PREFECT_REQUEST_TIMEOUT_S": "2",
            "BLUESKY_PREFECT_RETRY_MAX_S": "1",
            **environment,
        }
        started.append(CourierProcess(values, tmp_path / f"state-{len(started)}"))
        return started[-1]

    yield start
    for courier in started:
        courier.end()


def test_a_run_moves_the_histograms_and_the_gauges_through_an_outage(start_courier, prefect, tiled):
    courier = start_courier()
    before = courier.metrics()
    for name in ("submissions_sent_total", "submissions_waiting", "stop_to_sent_seconds_count", "journals_waiting"):
        assert before[name] == 0
    courier.record()
    wait_until(lambda: courier.metrics()["stop_to_completed_seconds_count"] == 1, 120)

    found = courier.metrics()
    assert (found["submissions_sent_total"], found["submissions_waiting"]) == (1, 0)
    sent, running, completed = (found[f"stop_to_{what}_seconds_sum"] for what in ("sent", "running", "completed"))
    # Times of two processes, by one clock.
    assert 0 < sent <= running + 1
    assert 0 < running < completed
    assert found["flow_runs_ended_total"] == 1
    assert (found["journals_waiting"], found["journals_waiting_bytes"], found["journals_refused"]) == (0, 0, 0)
    assert (found["healthy"], found["prefect_reachable"], found["tiled_reachable"]) == (1, 1, 1)
    assert 0 < found["disk_free_bytes"] < found["disk_size_bytes"]
    assert {re.sub(r"_(sum|count)$", "", f"bluesky_prefect_{name}") for name in found} >= set(METRICS)
    _, text = courier.get("/metrics")
    for file in ("grafana/bluesky-prefect.json", "prometheus/alerts.yaml"):
        asked = set(re.findall(r"bluesky_prefect_\w+", (DEPLOY / file).read_text()))
        assert not {name for name in asked if not re.search(rf"^{name}[ {{]", text, re.MULTILINE)}

    prefect.mode, tiled.mode = "black-hole", "refuse"
    courier.record()
    away = wait_until(
        lambda: (found := courier.metrics())["prefect_reachable"] + found["tiled_reachable"] == 0 and found
    )
    assert (away["submissions_waiting"], away["journals_waiting"], away["healthy"]) == (1, 1, 1)
    assert away["journals_waiting_bytes"] > 0
    since = "prefect_reachable_since_timestamp_seconds"
    assert away[since] > found[since]
    ages = ("submissions_oldest_age_seconds", "journals_oldest_age_seconds")
    assert all(away[age] > 0 for age in ages)
    wait_until(lambda: (later := courier.metrics()) and all(later[age] > away[age] for age in ages))
    status, health = courier.health()
    assert (status, health["ok"], health["waiting"], health["journals"]) == (200, True, 1, 1)
    assert (health["prefect"]["is_up"], health["tiled"]["is_up"]) == (False, False)

    prefect.mode = tiled.mode = "pass"
    sent = {"submissions_waiting": 0, "submissions_sent_total": 2, "journals_waiting": 0}
    back = wait_until(lambda: (found := courier.metrics()).items() >= sent.items() and found)
    assert back["submissions_oldest_age_seconds"] == 0
    wait_until(lambda: (found := courier.metrics())["prefect_reachable"] + found["tiled_reachable"] == 2)


def test_a_courier_whose_outbox_cannot_be_opened_is_not_healthy_until_it_can(start_courier):
    courier = start_courier()
    wait_until(lambda: courier.health()[0] == 200)
    path = courier.state / "outbox.sqlite"
    kept = courier.state / "kept"
    wait_until(path.exists)
    path.rename(kept)
    path.mkdir()
    _, health = wait_until(lambda: (found := courier.health())[0] == 503 and found)
    assert str(path) in health["problems"][0]
    assert courier.metrics()["healthy"] == 0
    path.rmdir()
    kept.rename(path)
    wait_until(lambda: courier.health()[0] == 200)


def test_a_second_courier_at_the_same_port_says_so_and_goes_on_without(start_courier):
    first = start_courier()
    second = start_courier(BLUESKY_PREFECT_METRICS_PORT=str(first.port()))
    said = wait_until(lambda: [line for line in second.said().splitlines() if "Metrics" in line])
    assert len(said) == 1
    assert f"port {first.port()}: Address already in use" in said[0]
    assert running_courier(Settings(state_directory=second.state)) is not None
    assert first.health()[0] == 200
