"""The stack with its Prefect server on PostgreSQL."""

import os
import subprocess
import sys

import httpx
import psutil
import pytest
from pydantic import SecretStr

from bluesky_prefect.core import Settings, StackError
from bluesky_prefect.stack import LocalStack
from bluesky_prefect.stack._database import VARIABLE, choose_database, parse_database
from bluesky_prefect.stack._info import StackPaths
from tests.conftest import missing_service
from tests.services.postgres import empty_database
from tests.services.prefect_process import wait_until

# The server lets anybody of this machine in: the password is there to be looked for.
PASSWORD = "a-s3cret-0f-th1s-test"


@pytest.fixture(scope="module")
def database():
    """The address of an empty database, with a password in it."""
    with empty_database() as url:
        if url is None:
            missing_service("a PostgreSQL server")
        yield url.replace("postgresql+asyncpg://postgres@", f"postgresql://postgres:{PASSWORD}@")


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory, database, outside_services):
    """A stack that was started with one more setting, and what that start said."""
    settings = Settings(
        state_directory=tmp_path_factory.mktemp("postgres") / "state", tiled_port=0, prefect_port=0, **outside_services
    )
    up = [sys.executable, "-c", "from bluesky_prefect.cli import main; main()", "up"]
    options = ["--state-directory", str(settings.state_directory), "--tiled-port", "0", "--prefect-port", "0"]
    environment = {**os.environ, "BLUESKY_PREFECT_PREFECT_DATABASE_URL": database}
    try:
        done = subprocess.run([*up, *options], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        yield settings, done.stdout + done.stderr
    finally:
        LocalStack(settings).down(print, flow_runs_timeout_s=0)


def test_it_works_and_says_where_its_flow_runs_are(on_postgres):
    settings, said = on_postgres
    wait_until(lambda: LocalStack(settings).status().all_up)
    status = LocalStack(settings).status()
    assert status.prefect_database.startswith("PostgreSQL, database bluesky_prefect_")
    assert f"Prefect server: on {status.prefect_database}" in said
    assert not (StackPaths(settings.state_directory).prefect / "prefect.db").exists()


def test_flow_runs_are_executed(on_postgres):
    settings, _ = on_postgres
    info = LocalStack(settings).find()
    with httpx.Client(base_url=info.prefect_api_url, headers=info.prefect_headers, timeout=30) as api:
        deployment = api.get("/deployments/name/reconcile/local").raise_for_status().json()["id"]
        made = api.post(f"/deployments/{deployment}/create_flow_run", json={"state": {"type": "SCHEDULED"}})
        flow_run = f"/flow_runs/{made.raise_for_status().json()['id']}"
        wait_until(lambda: api.get(flow_run).json()["state_type"] == "COMPLETED", timeout_s=120)


def test_another_database_is_refused_while_it_runs(on_postgres):
    settings, _ = on_postgres
    before = LocalStack(settings).processes()
    with pytest.raises(StackError, match="bluesky-prefect down"):
        LocalStack(settings.model_copy(update={"prefect_database_url": SecretStr("sqlite")})).up(print)
    assert LocalStack(settings).processes() == before


def test_the_password_is_in_one_file_of_its_owner_s_and_nowhere_else(on_postgres):
    settings, said = on_postgres
    root = settings.state_directory
    holding = [path for path in root.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert holding == [StackPaths(root).database_url]
    assert holding[0].stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in said
    commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if PASSWORD in " ".join(command)]
    # Flow runs inherit what the worker has.
    worker = psutil.Process(LocalStack(settings).processes()["worker"].pid)
    assert PASSWORD not in str(worker.environ())


def test_the_choice_is_remembered_after_down_and_the_way_back_is_told(on_postgres, database):
    settings, _ = on_postgres
    LocalStack(settings).down(print, flow_runs_timeout_s=0)
    paths = StackPaths(settings.state_directory)
    title = LocalStack(settings).status().prefect_database
    assert title.startswith("PostgreSQL")
    said = []
    chosen = choose_database(None, paths, None, said.append)
    assert chosen.environment() == parse_database(SecretStr(database), paths).environment()
    assert said == [f"Prefect server: on {title}"]
    assert choose_database(SecretStr("sqlite"), paths, None, said.append).is_sqlite
    assert "now on SQLite" in said[-1]
    assert "processed once more" in said[-1]
    assert LocalStack(settings).status().prefect_database == "SQLite"


@pytest.mark.parametrize(
    ("user", "name", "said"),
    [
        ("postgres", "no_such_database", "Make it with: createdb -h 127.0.0.1 -p 5432 -U postgres no_such_database"),
        ("no_such_user", "postgres", "does not let user no_such_user in. Check user and password"),
    ],
)
def test_what_postgresql_refuses_is_told_with_what_to_do(database, tmp_path, user, name, said):
    url = SecretStr(f"postgresql://{user}:{PASSWORD}@127.0.0.1:5432/{name}")
    with pytest.raises(StackError) as caught:
        choose_database(url, StackPaths(tmp_path), None, print)
    assert said in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert VARIABLE not in str(caught.value)
