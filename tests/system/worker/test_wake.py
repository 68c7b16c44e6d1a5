"""The worker looks for flow runs when there are some, and polls when nobody tells it."""

from tests.services.prefect_process import wait_until
from tests.system.worker.test_worker import start_waiting


def test_a_flow_run_made_while_the_event_stream_is_cut_starts_later(worker, proxy, deployments):
    # The worker of this folder polls once an hour.
    proxy.mode = "refuse"
    flow_run = worker.submit(deployments["lines"], count=1)
    assert worker.flow_run(flow_run)["state_type"] == "SCHEDULED"
    proxy.mode = "pass"
    assert worker.wait(flow_run)["state_type"] == "COMPLETED"


def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends(worker, proxy, deployments, tmp_path):
    def said():
        return worker.log.read_text()[begun:]

    flow_run, _ = start_waiting(worker, deployments["waits"], tmp_path / "waits")
    begun, where = len(worker.log.read_text()), f"Prefect at {proxy.url}/api"
    proxy.mode = "refuse"
    wait_until(lambda: f"{where} cannot be reached: " in said())
    # Whoever listens for the flow run has met it by now, and says so when it is back.
    proxy.mode = "pass"
    wait_until(lambda: f"{where} answers again" in said())
    (tmp_path / "waits").unlink()
    assert worker.wait(flow_run)["state_type"] == "COMPLETED"
    assert "Traceback" not in said()
    told = [line for line in said().splitlines() if "Prefect at" in line]
    assert [line.split(" - ")[1][: len(where) + 7] for line in told] == [f"{where} cannot", f"{where} answer"]


def test_without_web_sockets_polling_finds_flow_runs(prefect_server, proxy, another_worker, tmp_path):
    from tests.services.worker_process import WorkerProcess
    from tests.system.worker.conftest import FLOWS

    proxy.mode = "no-web-sockets"
    try:
        polling = WorkerProcess(prefect_server.url, tmp_path, another_worker.pool, worker_api_url=f"{proxy.url}/api")
        polling.start(PREFECT_WORKER_QUERY_SECONDS="1")
        deployment = polling.deploy(f"{FLOWS.name}:lines", FLOWS.parent)
        assert polling.wait(polling.submit(deployment, count=1))["state_type"] == "COMPLETED"
        polling.close()
        assert proxy.struck
    finally:
        proxy.mode = "pass"


def test_answers_of_503_crash_no_flow_run(worker, proxy, deployments):
    flow_runs = []
    for _ in range(3):
        flow_runs.append(worker.submit(deployments["lines"], count=1))
        struck = proxy.struck
        proxy.mode = "503"
        wait_until(lambda struck=struck: proxy.struck > struck)
        proxy.mode = "pass"
    assert {worker.wait(flow_run)["state_type"] for flow_run in flow_runs} == {"COMPLETED"}


def test_with_a_password_on_prefect_flow_runs_start_and_are_cancelled(tmp_path, made_databases):
    from tests.services.prefect_process import PrefectProcess
    from tests.services.worker_process import WorkerProcess
    from tests.system.worker.conftest import FLOWS

    server = PrefectProcess(tmp_path, user="bluesky:passw0rd", databases=made_databases)
    worker = WorkerProcess(server.url, tmp_path, "closed", user="bluesky:passw0rd")
    try:
        server.start()
        worker.make_pool()
        worker.start(PREFECT_WORKER_QUERY_SECONDS="3600")
        flow_run = worker.submit(worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent), count=1)
        assert worker.wait(flow_run)["state_type"] == "COMPLETED"
        waiting, _ = start_waiting(worker, worker.deploy(f"{FLOWS.name}:waits", FLOWS.parent), tmp_path / "waits")
        worker.cancel(waiting)
        assert worker.wait(waiting)["state_type"] == "CANCELLED"
    finally:
        worker.close()
        server.kill()
