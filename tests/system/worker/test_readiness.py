"""A worker that starts takes no flow run that it could only fail."""

from tests.services.prefect_process import wait_until
from tests.system.worker.conftest import FLOWS


def test_flow_runs_wait_unharmed_until_what_a_worker_lacks_is_there(another_worker, tmp_path):
    (tmp_path / "facility_check.py").write_text(
        f"from pathlib import Path\ndef problem():\n    return Path({str(tmp_path / 'wrong')!r}).read_text()\n"
    )
    (tmp_path / "wrong").write_text("The key is wrong.")
    template = another_worker.ask("GET", f"/work_pools/{another_worker.pool}")["base_job_template"]
    template["variables"]["properties"]["check"]["default"] = "facility_check:problem"
    another_worker.ask("PATCH", f"/work_pools/{another_worker.pool}", base_job_template=template)
    flow_run = another_worker.submit(another_worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent), count=1)
    # It asks for flow runs again and again all the while.
    another_worker.start(PYTHONPATH=str(tmp_path), PREFECT_WORKER_QUERY_SECONDS="0.5")
    wait_until(lambda: another_worker.says("Not taking flow runs yet, because they would fail. The key is wrong."))
    found = another_worker.flow_run(flow_run)
    assert (found["state_type"], found["run_count"]) == ("SCHEDULED", 0)
    (tmp_path / "wrong").write_text("")
    assert another_worker.wait(flow_run)["state_type"] == "COMPLETED"
    assert another_worker.says("Taking flow runs now.")
    assert another_worker.flow_run(flow_run)["run_count"] == 1
