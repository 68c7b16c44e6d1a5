"""Acquisition, servers and workers on several hosts: cables are cut, lines are bad, and a host is lost.

Each run is started once.
"""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing

import httpx
import pytest

from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._prefect import PrefectServer
from tests.services.bad_line import BadLine
from tests.services.fault_proxy import FaultProxy
from tests.services.hosts import Hosts
from tests.services.prefect_process import wait_until
from tests.services.worker_process import PREFECT, WorkerProcess

# An outage after another; or each flow run asks Prefect twenty times, at half a second each.
pytestmark = pytest.mark.timeout(600)

FLOW = """
import secrets
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow
def trivial():
    [uid] = [tag for tag in flow_run.tags if tag.startswith("uid:")]
    (Path(__file__).parent / "executed" / f"{uid}.{secrets.token_hex(4)}").touch()
"""
ACQUISITION, SERVERS, WORKERS = "acquisition", "servers", "workers"
# Here connections between the others are passed on, as badly as a test wants.
BETWEEN = "between"
# Longer than a request may take.
CUT_S = 12.0
HASTY = {
    "BLUESKY_PREFECT_REQUEST_TIMEOUT_S": "3",
    "BLUESKY_PREFECT_RETRY_INITIAL_S": "0.2",
    "BLUESKY_PREFECT_RETRY_MAX_S": "1",
}


@pytest.fixture(scope="module")
def hosts():
    with Hosts(ACQUISITION, SERVERS, WORKERS, BETWEEN) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def api_url(hosts, tmp_path_factory):
    """Prefect on the host of the servers."""
    tmp_path = tmp_path_factory.mktemp("prefect")
    server = PrefectServer(StackPaths(tmp_path), 4200, None)
    server.prepare()
    command = [
        *hosts.command(SERVERS),
        PREFECT,
        "server",
        "start",
        "--host",
        hosts.addresses[SERVERS],
        "--port",
        "4200",
    ]
    url = f"http://{hosts.addresses[SERVERS]}:4200/api"
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **server.environment()}, stdout=output, stderr=output)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return httpx.get(f"{url}/health", timeout=5, verify=False).is_success
        except httpx.TransportError:
            return False

    wait_until(lambda: hosts.within(SERVERS, answers), 120)
    yield url
    process.terminate()
    process.wait(30)


class Workers:
    """Workers on a host, and what is asked of Prefect about their flow runs, on the host of the servers."""

    def __init__(self, hosts, api_url, folder, seen_as=None):
        self._hosts = hosts
        self._folder = folder
        where = {"worker_api_url": seen_as, "within": hosts.command(WORKERS)}
        self._worker = WorkerProcess(api_url, folder, folder.name, **where)
        self.within(self._worker.make_pool)
        self.within(lambda: self._worker.preload(checked=False))

    def within(self, what):
        return self._hosts.within(SERVERS, what)

    def start(self):
        self._worker.start("--name", os.urandom(3).hex(), ready=False)

    def stop(self, number):
        self._worker.stop(number)

    def close(self):
        self._worker.close()

    def deploy(self):
        folder = self._folder
        (folder / "executed").mkdir()
        (folder / "flows.py").write_text(FLOW)
        deployment = self.within(
            lambda: self._worker.ask("GET", f"/deployments/{self._worker.deploy('flows.py:trivial', folder)}")
        )
        return f"trivial/{deployment['name']}"

    def executed(self):
        """Return how often which run was processed."""
        return Counter(path.name.partition(".")[0] for path in (self._folder / "executed").iterdir())

    def states(self, uids):
        """Return how many flow runs of these runs are in which state, by run."""
        tags = {"any_": [f"uid:{uid}" for uid in uids]}
        found = self.within(lambda: self._worker.ask("POST", "/flow_runs/filter", flow_runs={"tags": tags}))
        return Counter((tag, one["state_type"]) for one in found for tag in one["tags"] if tag.startswith("uid:"))


@pytest.fixture
def workers(hosts, api_url, tmp_path):
    workers = Workers(hosts, api_url, tmp_path)
    workers.start()
    yield workers
    workers.close()


class Acquiring:
    """A session on the host of acquisition that takes runs, one every so many seconds."""

    def __init__(self, hosts, api_url, state, workflow, number, every_s=1.0, **variables):
        command = [*hosts.command(ACQUISITION), sys.executable, "-m", "tests.services.acquiring", workflow, str(number)]
        environment = {
            **os.environ,
            "PREFECT_API_URL": api_url,
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(state),
            **variables,
        }
        self._process = subprocess.Popen([*command, str(every_s)], env=environment, stdout=subprocess.PIPE, text=True)
        self.uids: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self.uids.append(line.split()[0])

    def finish(self):
        """Wait until all runs are taken and sent."""
        self._reader.join(180)
        self._process.stdout.close()
        assert self._process.wait(60) == 0


def test_cut_cables_and_a_lost_host_cost_no_run_and_make_none_twice(hosts, api_url, workers, tmp_path):
    workflow = workers.deploy()
    acquiring = Acquiring(hosts, api_url, tmp_path / "state", workflow, 75)
    wait_until(lambda: len(acquiring.uids) > 3)
    for host in (ACQUISITION, SERVERS):
        hosts.cut(host)
        time.sleep(CUT_S)
        hosts.mend(host)
    for silent, deaf in ((ACQUISITION, SERVERS), (SERVERS, WORKERS)):
        hosts.mute(silent, deaf)
        time.sleep(CUT_S)
        hosts.unmute(silent, deaf)
    workers.stop(9)
    time.sleep(CUT_S)
    # What the lost host had under way stays so in Prefect until reconciliation finds it silent.
    lost = {uid for uid, state in workers.states(acquiring.uids) if state not in ("SCHEDULED", "COMPLETED")}
    workers.start()
    acquiring.finish()
    assert len(acquiring.uids) == 75

    def all_done() -> bool:
        states = workers.states(acquiring.uids)
        return states.total() == 75 and {uid for uid, state in states if state != "COMPLETED"} <= lost

    wait_until(all_done, 180)
    states = workers.states(acquiring.uids)
    assert len({uid for uid, _ in states}) == 75
    assert {state for _, state in states} <= {"COMPLETED", "CRASHED", "RUNNING", "PENDING"}


@pytest.fixture
def lines(hosts, api_url):
    """Lines from acquisition to the servers and from workers to the servers, by host, as proxies between them."""
    with ExitStack() as opened:
        yield {
            host: opened.enter_context(
                closing(
                    FaultProxy(
                        4200,
                        server=hosts.addresses[SERVERS],
                        host=hosts.addresses[BETWEEN],
                        enter=lambda: hosts.enter(BETWEEN),
                    )
                )
            )
            for host in (ACQUISITION, WORKERS)
        }


def test_slow_and_lossy_lines_cost_no_run_and_make_none_twice(hosts, api_url, lines, tmp_path):
    workers = Workers(hosts, api_url, tmp_path, f"{lines[WORKERS].url}/api")
    try:
        workers.start()
        workflow = workers.deploy()
        lossy = lines[ACQUISITION]
        # Of the first dozen requests one hangs, one is reset, and the answers of three are lost.
        lossy.line = BadLine(hangs=0.05, resets=0.1, loses_answers=0.2, seed=16)
        lossy.mode = "lose-answer"
        lines[WORKERS].line = BadLine()
        acquiring = Acquiring(hosts, f"{lossy.url}/api", tmp_path / "state", workflow, 12, 0.3, **HASTY)
        wait_until(lambda: lossy.struck >= 2)
        lossy.mode = "pass"
        acquiring.finish()
        assert len(acquiring.uids) == 12
        wait_until(lambda: sum(workers.executed().values()) >= 12, 150)
        assert workers.states(acquiring.uids).total() == 12
    finally:
        workers.close()
    assert workers.executed() == dict.fromkeys((f"uid:{uid}" for uid in acquiring.uids), 1)
    assert min(lossy.line.met[fate] for fate in ("hangs", "is reset", "answer lost")) > 0, lossy.line.met
    asked = [number for path, number in lossy.passed.items() if path.endswith("create_flow_run")]
    assert sum(asked) >= 12 + 2, "no submission was repeated that Prefect had carried out"
