"""The worker type ``warm-process``: everything that a process worker gives."""

import contextlib
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.services.prefect_process import wait_until
from tests.services.worker_process import WorkerProcess
from tests.system.worker.conftest import FLOWS


def reported(worker, deployment, file):
    """Run the flow `report` and return what it has seen."""
    flow_run = worker.submit(deployment, file=str(file))
    assert worker.wait(flow_run)["state_type"] == "COMPLETED", worker.messages(flow_run)
    return json.loads(file.read_text())


def start_waiting(worker, deployment, file):
    """Start the flow `waits`; return the flow run and its process once it waits."""
    flow_run = worker.submit(deployment, file=str(file))
    wait_until(lambda: file.exists() and file.read_text())
    return flow_run, int(file.read_text())


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_plain_prefect_command_makes_its_work_pool_and_another_starts_it(worker):
    assert worker.ask("GET", f"/work_pools/{worker.pool}")["type"] == "warm-process"
    signed_in = worker.ask("POST", f"/work_pools/{worker.pool}/workers/filter")
    assert [one["status"] for one in signed_in] == ["ONLINE"]


def test_a_flow_run_is_a_process_of_its_own_with_nothing_of_its_parent_s(worker, deployments, tmp_path):
    with ThreadPoolExecutor() as both:
        files = [tmp_path / "one.json", tmp_path / "two.json"]
        seen = list(both.map(lambda file: reported(worker, deployments["report"], file), files))
    assert {one["parent"] for one in seen} == {worker.fork_server}
    for one in seen:
        assert one["pid"] == one["group"] == one["session"]
        assert one["name"] == "flow-run"
        assert one["stdin"] == os.devnull
        assert one["nice"] == min(os.nice(0) + 5, 19)
        # Clients and event loops of its own, and the socket that its job came by: none of the fork server's.
        assert not [target for target in one["descriptors"].values() if "pidfd" in target or target.endswith(".json")]
    # Neither Python's random numbers, numpy's, unique ids nor temporary files are the same twice.
    for first, second in zip(*(one["random"] for one in seen), strict=True):
        assert first != second


def test_environment_directory_and_settings_are_the_flow_run_s_own(worker, tmp_path):
    modules = tmp_path / "modules"
    modules.mkdir()
    environment = {
        "SAMPLE": "Fe₂O₃",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PYTHONPATH": str(modules),
        "TZ": "Asia/Tokyo",
    }
    deployment = worker.deploy(f"{FLOWS}:report", None, env=environment, working_dir=str(tmp_path), nice=7)
    seen = reported(worker, deployment, tmp_path / "seen.json")
    assert seen["environment"]["SAMPLE"] == "Fe₂O₃"
    assert seen["environment"]["FACILITY"] == "as a module has it"
    assert seen["log_level"] == "DEBUG"
    assert seen["zone"] == "JST"
    assert str(modules) in seen["path"]
    assert seen["directory"] == str(tmp_path)
    assert seen["nice"] == min(os.nice(0) + 7, 19)
    # Linux may share the processor between sessions first, and the flow run's is its own.
    assert not seen["autogroup"] or seen["autogroup"].endswith(f"nice {seen['nice']}")
    deployment = worker.deploy(f"{FLOWS}:report", None, env={"FACILITY": "as its job has it"})
    seen = reported(worker, deployment, tmp_path / "next.json")
    assert "SAMPLE" not in seen["environment"]
    assert seen["environment"]["FACILITY"] == "as its job has it"


def test_a_flow_run_without_a_directory_gets_one_that_is_gone_afterwards(worker, tmp_path):
    seen = reported(worker, worker.deploy(f"{FLOWS}:report", None), tmp_path / "seen.json")
    directory = Path(seen["directory"])
    assert directory.name.endswith("prefect")
    wait_until(lambda: not directory.exists())


def test_the_log_is_complete_to_the_last_line(worker, deployments):
    flow_run = worker.submit(deployments["lines"], count=300)
    worker.wait(flow_run)
    expected = [f"line {number}" for number in range(300)]
    wait_until(lambda: [one for one in worker.messages(flow_run) if one.startswith("line ")] == expected)
    wait_until(lambda: any("Finished in state" in message for message in worker.messages(flow_run)))
    assert "line 299" in worker.log.read_text()
    worker.wait(worker.submit(deployments["speaks_c"]))
    wait_until(lambda: worker.says("said in C"))


def test_the_log_of_a_failed_flow_run_has_its_traceback_once(worker, deployments):
    flow_run = worker.submit(deployments["fails"])
    worker.wait(flow_run)
    said = wait_until(lambda: [line for line in worker.messages(flow_run) if "Engine execution exited" in line])
    assert len(said) == 1
    [traceback] = [line for line in worker.messages(flow_run) if "Traceback" in line]
    assert traceback.startswith("Encountered exception during execution: ")


def test_a_flow_that_fails_has_failed_and_one_that_hangs_has_timed_out(worker, deployments):
    failed, timed_out = worker.submit(deployments["fails"]), worker.submit(deployments["hangs"])
    assert worker.wait(failed)["state"]["message"].endswith("the sample fell off")
    assert worker.wait(timed_out)["state"]["name"] == "TimedOut"


def retry(worker, flow_run, at=None):
    """Do what the button in the UI does, or what a flow run does that is to be retried later."""
    details = {"scheduled_time": at.isoformat()} if at else {}
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "state_details": details}
    worker.ask("POST", f"/flow_runs/{flow_run}/set_state", state=state)


def test_a_flow_run_that_is_retried_is_executed_again(worker, deployments):
    flow_run = worker.submit(deployments["fails"])
    assert worker.wait(flow_run)["run_count"] == 1
    retry(worker, flow_run)
    wait_until(lambda: worker.flow_run(flow_run)["run_count"] == 2)
    assert worker.wait(flow_run)["state_type"] == "FAILED"


def test_a_retry_waits_until_the_process_of_the_attempt_before_it_has_ended(worker, deployments, tmp_path):
    file = tmp_path / "it"
    flow_run, first = start_waiting(worker, deployments["fails_slowly"], file)
    assert worker.flow_run(flow_run)["state_type"] == "FAILED"
    retry(worker, flow_run)
    # Another one is looked for, found, and executed meanwhile.
    assert worker.wait(worker.submit(deployments["lines"], count=1))["state_type"] == "COMPLETED"
    assert worker.flow_run(flow_run)["state_name"] == "AwaitingRetry"
    file.unlink()
    wait_until(lambda: file.exists() and file.read_text())
    assert int(file.read_text()) != first
    file.unlink()
    assert worker.flow_run(flow_run)["run_count"] == 2


def test_a_flow_run_that_was_suspended_goes_on_when_it_is_resumed(worker, deployments, tmp_path):
    file = tmp_path / "it"
    flow_run = worker.submit(deployments["suspends"], file=str(file))
    worker.wait(flow_run, "PAUSED")
    worker.ask("POST", f"/flow_runs/{flow_run}/resume")
    assert worker.wait(flow_run)["state_type"] == "COMPLETED"
    assert file.read_text() == "after"


def test_a_cancellation_that_fails_hurts_no_other_flow_run(worker, proxy, deployments, tmp_path):
    other, _ = start_waiting(worker, deployments["waits"], tmp_path / "other")
    cancelled, _ = start_waiting(worker, deployments["waits"], tmp_path / "it")
    struck, proxy.hidden = proxy.struck, f"/flow_runs/{cancelled}"
    worker.cancel(cancelled)
    wait_until(lambda: proxy.struck > struck)
    wait_until(lambda: worker.says(f"Flow run {cancelled} cannot be cancelled"))
    proxy.hidden = None
    for file in (tmp_path / "other", tmp_path / "it"):
        file.unlink()
    assert worker.wait(other)["state_type"] == "COMPLETED"
    assert worker.wait(worker.submit(deployments["lines"], count=1))["state_type"] == "COMPLETED"


def test_flow_runs_whose_deployment_is_gone_take_no_room(worker, proxy, deployments):
    proxy.hidden = f"/deployments/{deployments['lines']}"
    gone = [worker.submit(deployments["lines"], count=1) for _ in range(2)]
    assert {worker.wait(flow_run)["state_type"] for flow_run in gone} == {"CANCELLED"}
    proxy.hidden = None
    assert worker.wait(worker.submit(deployments["lines"], count=1))["state_type"] == "COMPLETED"


@pytest.mark.parametrize(("how", "code"), [("kill", -9), ("segfault", -11), ("exit", 3)])
def test_a_flow_run_whose_process_dies_has_crashed_and_its_hook_runs(worker, deployments, tmp_path, how, code):
    flow_run = worker.submit(deployments["dies"], file=str(tmp_path / "it"), how=how)
    crashed = worker.wait(flow_run)
    assert crashed["state_type"] == "CRASHED"
    assert f"status code {code}." in crashed["state"]["message"]
    hook = tmp_path / "it.hook"
    wait_until(lambda: hook.exists() and hook.read_text())
    assert hook.read_text().split()[0] == "CRASHED"


def test_a_cancelled_flow_run_stops_and_its_hook_runs_in_another_process(worker, deployments, tmp_path):
    flow_run, pid = start_waiting(worker, deployments["waits"], tmp_path / "it")
    worker.cancel(flow_run)
    assert worker.wait(flow_run)["state_type"] == "CANCELLED"
    assert not alive(pid)
    hook = tmp_path / "it.hook"
    wait_until(lambda: hook.exists() and hook.read_text())
    state, hook_pid = hook.read_text().split()
    assert state == "CANCELLING"
    assert int(hook_pid) not in (pid, worker.process.pid)


def test_a_cancellation_from_before_a_flow_run_was_taken_is_an_earlier_attempt_s(worker, deployments, tmp_path):
    before = datetime.now(UTC) - timedelta(seconds=1)
    flow_run, _ = start_waiting(worker, deployments["waits"], tmp_path / "it")
    pool = {"prefect.resource.role": "work-pool"}
    pool["prefect.resource.id"] = f"prefect.work-pool.{worker.ask('GET', f'/work_pools/{worker.pool}')['id']}"
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run}"}
    late = {"id": str(uuid4()), "occurred": before.isoformat(), "event": "prefect.flow-run.Cancelling"}
    worker.post_events({**late, "resource": resource, "related": [pool]})
    # It has heard of that once it hears of this.
    assert worker.wait(worker.submit(deployments["lines"], count=1))["state_type"] == "COMPLETED"
    (tmp_path / "it").unlink()
    assert worker.wait(flow_run)["state_type"] == "COMPLETED"


def test_a_flow_run_that_waits_for_a_retry_is_cancelled(worker, deployments):
    flow_run = worker.submit(deployments["fails"])
    assert worker.wait(flow_run)["state_type"] == "FAILED"
    wait_until(lambda: not psutil.Process(worker.fork_server).children())
    retry(worker, flow_run, at=datetime.now(UTC) + timedelta(hours=1))
    worker.cancel(flow_run)
    assert worker.wait(flow_run, timeout_s=30)["state_type"] == "CANCELLED"


def names_of_states(worker, flow_run):
    states = worker.ask("GET", f"/flow_run_states/?flow_run_id={flow_run}")
    return [state["name"] for state in sorted(states, key=lambda state: state["timestamp"])]


def test_a_flow_run_cancelled_before_it_begins_is_cancelled_with_its_hook(worker, proxy, deployments, tmp_path):
    proxy.held = "/labels"
    flow_run = worker.submit(deployments["waits"], file=str(tmp_path / "it"))
    worker.wait(flow_run, "PENDING")
    worker.cancel(flow_run)
    proxy.held = None
    assert worker.wait(flow_run)["state_type"] == "CANCELLED"
    assert not (tmp_path / "it").exists()
    assert (tmp_path / "it.hook").read_text().split()[0] == "CANCELLING"
    assert "Crashed" not in names_of_states(worker, flow_run)


def test_a_crash_while_prefect_answers_500_is_reported_later_and_its_hook_runs(worker, proxy, deployments, tmp_path):
    flow_run, pid = start_waiting(worker, deployments["waits"], tmp_path / "it")
    struck, proxy.mode = proxy.struck, "500"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: proxy.struck > struck + 1)
    proxy.mode = "pass"
    assert worker.wait(flow_run)["state_type"] == "CRASHED"
    wait_until((tmp_path / "it.hook").exists)


def test_a_retry_is_not_lost_when_the_process_before_it_dies_in_a_hook(worker, deployments, tmp_path):
    file = tmp_path / "it"
    flow_run, first = start_waiting(worker, deployments["fails_slowly"], file)
    retry(worker, flow_run)
    # It has looked, and seen the retry, once it executes another.
    assert worker.wait(worker.submit(deployments["lines"], count=1))["state_type"] == "COMPLETED"
    file.unlink()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: file.exists() and file.read_text())
    file.unlink()
    wait_until(lambda: worker.flow_run(flow_run)["run_count"] == 2)


def test_the_limit_is_kept_and_the_next_flow_run_starts_when_there_is_room(worker, deployments, tmp_path):
    files = [tmp_path / name for name in ("first", "second")]
    running = [start_waiting(worker, deployments["waits"], file)[0] for file in files]
    third = worker.submit(deployments["waits"], file=str(tmp_path / "third"))
    # An answer to somebody else, made and read after the third was submitted.
    worker.messages(running[0])
    assert worker.flow_run(third)["state_type"] == "SCHEDULED"
    files[0].unlink()
    wait_until((tmp_path / "third").exists)
    for file in (files[1], tmp_path / "third"):
        file.unlink()
    for flow_run in (*running, third):
        assert worker.wait(flow_run)["state_type"] == "COMPLETED"


def test_a_worker_with_no_room_left_does_not_ask_for_flow_runs(worker, proxy, deployments, tmp_path):
    def looks():
        return sum(count for path, count in proxy.passed.items() if path.endswith("/get_scheduled_flow_runs"))

    files = [tmp_path / name for name in ("first", "second")]
    running = [start_waiting(worker, deployments["waits"], file)[0] for file in files]
    before = looks()
    waiting = [worker.submit(deployments["lines"], count=1) for _ in range(6)]
    for file in files:
        file.unlink()
    for flow_run in (*running, *waiting):
        assert worker.wait(flow_run)["state_type"] == "COMPLETED"
    # Each flow run is told of when it is made; it looks when one ends that left no room.
    assert looks() - before <= len(waiting) + 1


def test_a_flow_run_due_later_starts_when_it_is_due_and_takes_no_room_before(worker, deployments):
    due = datetime.now(UTC) + timedelta(seconds=3)
    flow_run = worker.wait(worker.submit(deployments["lines"], scheduled=due.isoformat(), count=1))
    states = worker.ask("GET", f"/flow_run_states/?flow_run_id={flow_run['id']}")
    pending = min(datetime.fromisoformat(state["timestamp"]) for state in states if state["type"] == "PENDING")
    assert pending >= due - timedelta(milliseconds=100)


def test_code_that_changed_is_what_the_next_flow_run_executes(worker, facility, deployments, tmp_path):
    flows = tmp_path / "theirs.py"
    flows.write_text("from prefect import flow\n@flow(log_prints=True)\ndef theirs():\n    print('as it was')\n")
    deployment = worker.deploy("theirs.py:theirs", tmp_path)
    first = worker.submit(deployment)
    wait_until(lambda: "as it was" in worker.messages(first))
    flows.write_text(flows.read_text().replace("as it was", "changed"))
    second = worker.submit(deployment)
    wait_until(lambda: "changed" in worker.messages(second))
    # The same for what the fork server has imported.
    before = reported(worker, deployments["report"], tmp_path / "before.json")
    code = facility / "facility_code.py"
    code.write_text(code.read_text().replace("old", "changed"))
    after = reported(worker, deployments["report"], tmp_path / "after.json")
    assert (before["facility"], after["facility"]) == ("old", "changed")
    assert before["parent"] != after["parent"]


def test_a_fork_server_that_is_killed_is_replaced_and_no_flow_run_suffers(worker, deployments, tmp_path):
    running, _ = start_waiting(worker, deployments["waits"], tmp_path / "it")
    killed = worker.fork_server
    os.kill(killed, signal.SIGKILL)
    after = reported(worker, deployments["report"], tmp_path / "seen.json")
    assert after["parent"] not in (killed, 1)
    (tmp_path / "it").unlink()
    assert worker.wait(running)["state_type"] == "COMPLETED"


def test_a_job_with_a_command_of_its_own_gets_an_interpreter_of_its_own(worker, tmp_path):
    command = f"{sys.executable} -m prefect.engine"
    deployment = worker.deploy(FLOWS.name + ":report", FLOWS.parent, command=command)
    assert reported(worker, deployment, tmp_path / "seen.json")["parent"] == worker.process.pid
    # So does one with variables that are read by an interpreter, or a library, when it starts.
    deployment = worker.deploy(FLOWS.name + ":report", FLOWS.parent, env={"OPENBLAS_NUM_THREADS": "2"})
    assert reported(worker, deployment, tmp_path / "next.json")["parent"] != worker.fork_server


OWN_INTERPRETER = {"command": f"{sys.executable} -m prefect.engine"}


@pytest.mark.parametrize(
    ("number", "job"), [(signal.SIGINT, {}), (signal.SIGTERM, {}), (signal.SIGTERM, OWN_INTERPRETER)]
)
def test_a_stopped_worker_leaves_no_process_and_reports_its_flow_run(another_worker, tmp_path, number, job):
    another_worker.start()
    deployment = another_worker.deploy(f"{FLOWS.name}:waits", FLOWS.parent, **job)
    flow_run, pid = start_waiting(another_worker, deployment, tmp_path / "it")
    servers = another_worker.fork_server
    another_worker.stop(number)
    assert not alive(pid)
    assert not alive(servers)
    assert another_worker.flow_run(flow_run)["state_type"] == "CRASHED"


def test_a_worker_stopped_during_a_cancellation_leaves_the_flow_run_cancelled(another_worker, tmp_path):
    another_worker.start()
    deployment = another_worker.deploy(f"{FLOWS.name}:cancels_slowly", FLOWS.parent)
    flow_run, _ = start_waiting(another_worker, deployment, tmp_path / "it")
    another_worker.cancel(flow_run)
    wait_until((tmp_path / "it.hook").exists)
    assert another_worker.stop(signal.SIGTERM) == 0
    assert another_worker.flow_run(flow_run)["state_type"] == "CANCELLED"


def test_a_worker_stopped_while_a_fork_server_imports_leaves_flow_runs_scheduled(another_worker, tmp_path):
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(3600)\n")
    another_worker.preload("hangs", checked=False)  # else it takes none before that is imported
    another_worker.start(ready=False, PYTHONPATH=str(tmp_path))
    flow_run = another_worker.submit(another_worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent), count=1)
    another_worker.wait(flow_run, "PENDING")
    another_worker.stop(signal.SIGTERM)
    assert another_worker.flow_run(flow_run)["state_type"] == "SCHEDULED"


def test_a_worker_in_a_script_s_background_ends_on_sigterm(another_worker):
    another_worker.start(from_a_script=True)
    deployment = another_worker.deploy(f"{FLOWS.name}:lines", FLOWS.parent)
    assert another_worker.wait(another_worker.submit(deployment, count=1))["state_type"] == "COMPLETED"
    [worker] = psutil.Process(another_worker.process.pid).children()
    worker.terminate()
    assert psutil.wait_procs([worker], timeout=20)[1] == []
    flow_run = another_worker.submit(deployment, count=1)
    assert "Received SIGTERM" in another_worker.log.read_text()
    assert another_worker.flow_run(flow_run)["state_type"] == "SCHEDULED"


def test_a_worker_stopped_before_it_starts_a_flow_run_leaves_it_to_another(
    prefect_server, proxy, another_worker, tmp_path
):
    behind = WorkerProcess(prefect_server.url, tmp_path, another_worker.pool, worker_api_url=f"{proxy.url}/api")
    behind.start()
    deployment = behind.deploy(f"{FLOWS.name}:lines", FLOWS.parent)
    proxy.held = "/set_state"
    flow_run = behind.submit(deployment, count=1)
    behind.wait(flow_run, "PENDING")
    behind.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Received SIGTERM" in behind.log.read_text())
    proxy.held = None
    behind.process.wait(30)
    behind.close()
    assert another_worker.flow_run(flow_run)["state_type"] == "SCHEDULED"


def test_a_worker_that_works_once_takes_what_it_has_room_for(another_worker, tmp_path):
    deployment = another_worker.deploy(f"{FLOWS.name}:dies", FLOWS.parent)
    files = [tmp_path / name for name in ("first", "second")]
    flow_runs = [another_worker.submit(deployment, file=str(file), how="exit") for file in files]
    once = another_worker.command("worker", "start", "--pool", another_worker.pool, "--run-once", "--limit", "1")
    assert once.returncode == 0, once.stderr
    assert sorted(another_worker.flow_run(one)["state_type"] for one in flow_runs) == ["CRASHED", "SCHEDULED"]
    assert [file.with_suffix(".hook").exists() for file in files].count(True) == 1


def test_a_worker_that_is_killed_takes_no_flow_run_with_it(another_worker, tmp_path):
    another_worker.start()
    deployment = another_worker.deploy(f"{FLOWS.name}:waits", FLOWS.parent)
    flow_run, _ = start_waiting(another_worker, deployment, tmp_path / "it")
    server = another_worker.fork_server
    another_worker.stop(signal.SIGKILL)
    (tmp_path / "it").unlink()
    assert another_worker.wait(flow_run)["state_type"] == "COMPLETED"
    wait_until(lambda: not alive(server))


def listening_ports(worker):
    connections = psutil.Process(worker.process.pid).net_connections("tcp")
    return [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]


def test_the_worker_listens_on_no_port(worker, deployments, tmp_path):
    flow_run, _ = start_waiting(worker, deployments["waits"], tmp_path / "it")
    assert listening_ports(worker) == []
    (tmp_path / "it").unlink()
    assert worker.wait(flow_run)["state_type"] == "COMPLETED"


def test_strangers_who_connect_to_it_fill_no_log(worker, tmp_path):
    # Prefect's process worker, which executes what cannot be forked, listens for its flow runs.
    deployment = worker.deploy(f"{FLOWS.name}:waits", FLOWS.parent, **OWN_INTERPRETER)
    flow_run, _ = start_waiting(worker, deployment, tmp_path / "it")
    for port in listening_ports(worker) * 20:
        for said in (b"garbage\n", b"x" * 100_000 + b"\n"):
            with socket.create_connection(("127.0.0.1", port)) as stranger, contextlib.suppress(OSError):
                stranger.sendall(said)
                assert not stranger.recv(1)
    log = worker.log.read_text()
    assert log.count("rejected unauthenticated connection") == 1
    assert log.count("Unexpected error handling control channel connection") == 1
    (tmp_path / "it").unlink()
    assert worker.wait(flow_run)["state_type"] == "COMPLETED"
