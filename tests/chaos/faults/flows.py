"""Faults of what executes flow runs: the stack's worker and its processes, and the campaign's own executors."""

import resource
from contextlib import suppress
from random import Random

import psutil

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.prefect_process import wait_until

_FEW = (2, 4)
# Most processes without memory die of it at once.
_WITHOUT_MEMORY_S = 10.0


def _flow_process_of_worker(beamline: Beamline, chance: Random, runs: int) -> psutil.Process:
    """Start the stack's worker, do scans, and return a process that starts to execute a flow run of theirs, or does."""
    beamline.start("worker")
    beamline.acquisition.count(runs)
    wait_until(beamline.flow_processes)
    if chance.random() < 0.5:
        wait_until(lambda: list(beamline.prefect.flow_runs("RUNNING")))
    return wait_until(beamline.flow_processes)[-1]  # the youngest, since the first may have ended by now


def _finish_with_worker(beamline: Beamline, process: psutil.Process) -> None:
    """Let the worker report what became of the process and finish the rest, then end it."""
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    wait_until(lambda: not list(beamline.prefect.flow_runs("PENDING", "RUNNING", "SCHEDULED")), timeout_s=120)
    beamline.kill("worker")


@fault("worker-killed", "worker killed alone", heals=True, runs=_FEW)
def worker_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        _flow_process_of_worker(beamline, chance, runs)
        orphans = beamline.flow_processes()
        beamline.kill("worker", whole_group=False)
        psutil.wait_procs(orphans, timeout=60)


@fault("machine-killed", "worker killed with its flow processes", heals=True, runs=_FEW)
def machine_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        _flow_process_of_worker(beamline, chance, runs)
        _kill_with_flow_processes(beamline)


def _kill_with_flow_processes(beamline: Beamline) -> None:
    processes = beamline.flow_processes()
    beamline.kill("worker")
    for process in processes:
        if process.is_running():
            process.kill()
    psutil.wait_procs(processes, timeout=60)


@fault("flow-killed", "flow process killed (SIGKILL)", heals=True, runs=_FEW)
def flow_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        process = _flow_process_of_worker(beamline, chance, runs)
        process.kill()
        _finish_with_worker(beamline, process)


@fault("flow-out-of-memory", "flow process out of memory", heals=True, runs=_FEW)
def flow_out_of_memory(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle():
        process = _flow_process_of_worker(beamline, chance, runs)
        size = process.memory_info().vms
        resource.prlimit(process.pid, resource.RLIMIT_AS, (size, size))
        # Prefect's client may ask again and again for lack of memory to read an answer: then the kernel would end it.
        with suppress(psutil.TimeoutExpired):
            process.wait(_WITHOUT_MEMORY_S)
        if process.is_running():
            process.kill()
        _finish_with_worker(beamline, process)


@fault("executor-killed", "executor killed in a flow run", heals=True, runs=(8, 15))
def executor_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    beamline.acquisition.start(runs)
    wait_until(beamline.prefect.under_way)
    chance.choice(beamline.executors).kill()
    beamline.acquisition.finish()
    beamline.keep_executing()
