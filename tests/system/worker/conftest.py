"""A Prefect server, and a warm worker that this folder's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.fault_proxy import FaultProxy
from tests.services.made_databases import MadeDatabases
from tests.services.prefect_process import PrefectProcess
from tests.services.worker_process import WorkerProcess

FLOWS = Path(__file__).with_name("flows_of_a_facility.py")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, made_databases: MadeDatabases) -> Iterator[PrefectProcess]:
    server = PrefectProcess(tmp_path_factory.mktemp("prefect"), databases=made_databases)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def proxy(prefect_server: PrefectProcess) -> Iterator[FaultProxy]:
    """What stands between the shared worker and the server."""
    proxy = FaultProxy(prefect_server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def facility(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a facility keeps modules of its own, which the worker is to import beforehand."""
    folder = tmp_path_factory.mktemp("facility")
    (folder / "facility_code.py").write_text(
        "import os\nVALUE = 'old'\nos.environ['FACILITY'] = 'as a module has it'\n"
    )
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    (folder / "starts_a_thread.py").write_text(thread)
    return folder


@pytest.fixture(scope="session")
def worker(
    prefect_server: PrefectProcess, proxy: FaultProxy, facility: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A worker that executes two flow runs at once. It would poll once an hour: what starts was told to it."""
    url = f"{proxy.url}/api"
    worker = WorkerProcess(prefect_server.url, tmp_path_factory.mktemp("worker"), "beamline", worker_api_url=url)
    worker.make_pool_by_command(preload=["starts_a_thread", "facility_code", "not_installed_here"])
    worker.start("--limit", "2", PYTHONPATH=str(facility), PREFECT_WORKER_QUERY_SECONDS="3600", PYTHONUNBUFFERED="")
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def deployments(worker: WorkerProcess) -> dict[str, str]:
    """Deployments of the flows, by the flow's name."""
    names = ("report", "lines", "speaks_c", "suspends", "fails", "fails_slowly", "hangs", "waits", "dies")
    return {name: worker.deploy(f"{FLOWS.name}:{name}", FLOWS.parent) for name in names}


@pytest.fixture
def another_worker(prefect_server: PrefectProcess, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker of the test's own, with a work pool and a deployment of `waits`, not started."""
    worker = WorkerProcess(prefect_server.url, tmp_path, f"pool-{tmp_path.name}")
    worker.make_pool(preload=False)  # their flows need no more
    yield worker
    worker.close()
