"""Prefect's database, in PostgreSQL, with 1,000 to 100,000 flow runs; and how many bytes a run's flow runs take.

The flow runs are copies of those that a real server and a real worker made of ``my-workflow`` on real runs: with their
subflows, task runs, states, log lines and artifacts. Sizes count subflows, as Prefect does. The events of the first
thousand alone are copied: they are weighed there, and none of the questions reads them.
"""

import asyncio
import hashlib
import itertools
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
from prefect.settings import temporary_settings
from prefect.states import Completed, Failed, Pending, Running
from rich.console import Console
from rich.table import Table
from tests.services.outside import cat_facts, open_meteo
from tests.services.postgres import empty_database
from tests.services.prefect_process import prefect_settings, wait_until

from benchmarks.growth.tables import growth_table, median_s
from benchmarks.worker import Bench, servers, worker
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.prefect_api import PrefectApi, last_failed_flow_runs, past_flow_runs, recent_flow_runs

SIZES = (1_000, 10_000, 100_000)
BASE_RUNS = 5
WINDOW = 100
LISTED = 10
REPEATS = 15
ON_DISK = "size of the database, events of 1,000 alone"
BETWEEN_S = 3
# What a flow run leaves. Events go after their retention; the rest stays until somebody deletes it.
KEPT = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact")
EVENTS = ("events", "event_resources")
# References to what is copied along.
COPIED_IDS = {"id", "flow_run_id", "task_run_id", "state_id", "parent_task_run_id", "event_id", "result_artifact_id"}
COPIED_ID = "md5({0}::text || n)::uuid"
UID = "[0-9a-f-]{36}"
TEXTS = {
    "idempotency_key": f"CASE WHEN idempotency_key ~ '^{UID}:' THEN md5(left(idempotency_key, 36) || n)::uuid::text "
    "|| substr(idempotency_key, 37) ELSE idempotency_key END",
    "resource_id": "CASE WHEN resource_id ~ '^prefect.(flow|task)-run' THEN left(resource_id, -36) "
    "|| md5(right(resource_id, 36) || n)::uuid ELSE resource_id END",
    "tags": f"coalesce(regexp_replace(tags::text, 'uid:{UID}', 'uid:' || "
    f"md5(substring(tags::text from 'uid:({UID})') || n)::uuid), tags::text)::jsonb",
}


def copied_uid(uid: str, number: int) -> str:
    """Return the uid of a run whose flow runs are this copy of another one's."""
    return str(uuid.UUID(hashlib.md5(f"{uid}{number}".encode(), usedforsecurity=False).hexdigest()))


class Copies:
    """Copies of what is in a database now, each some seconds older than the one before."""

    def __init__(self, url: str) -> None:
        self._dsn = url.replace("postgresql+asyncpg", "postgresql")
        self.number = 0

    def ask(self, *statements: str) -> Any:
        """Execute statements, and return the value of the last one."""

        async def execute() -> Any:
            database = await asyncpg.connect(self._dsn)
            try:
                *before, last = statements
                for statement in before:
                    await database.execute(statement)
                return await database.fetchval(last)
            finally:
                await database.close()

        return asyncio.run(execute())

    def take(self) -> None:
        """Take what is there now as the pattern."""
        self.ask(*(f"CREATE TABLE base_{one} AS SELECT * FROM {one}" for one in (*KEPT, *EVENTS)), "SELECT 1")

    def add(self, upto: int, tables: tuple[str, ...]) -> None:
        """Add copies until there are so many, of these tables."""
        numbers = f"generate_series({self.number + 1}, {upto}) AS n"
        # Copies come in an order that foreign keys do not allow.
        statements = ["SET session_replication_role = replica", "SET synchronous_commit = off"]
        for table in tables:
            columns = self.ask(_COLUMNS.format(table)).split(",")
            values = ", ".join(map(_copied, columns))
            names = ", ".join(f'"{column.partition(":")[0]}"' for column in columns)
            statements.append(f"INSERT INTO {table} ({names}) SELECT {values} FROM base_{table}, {numbers}")
        self.ask(*statements, "SELECT 1")
        self.ask("VACUUM ANALYZE", "SELECT 1")

    def bytes_of(self, tables: tuple[str, ...]) -> dict[str, int]:
        """Return the bytes of tables, with their indexes."""
        return {one: self.ask(f"SELECT pg_total_relation_size('{one}')") for one in tables}

    def rows_of(self, table: str) -> int:
        """Return how many rows the pattern has."""
        return self.ask(f"SELECT count(*) FROM base_{table}")


_COLUMNS = (
    "SELECT string_agg(column_name || ':' || udt_name, ',') FROM information_schema.columns "
    "WHERE table_name = '{}' AND table_schema = 'public' AND is_generated = 'NEVER'"
)


def _copied(column: str) -> str:
    name, _, kind = column.partition(":")
    if kind == "timestamptz":
        return f"{name} - n * interval '{BETWEEN_S} seconds'"
    if kind == "uuid" and name in COPIED_IDS:
        return COPIED_ID.format(name)
    return TEXTS.get(name, f'"{name}"')


def submission(deployment: str, uid: str, scan_id: int) -> Submission:
    start = {"uid": uid, "scan_id": scan_id, "plan_name": "count", "time": 1.0}
    return Submission(
        submission_key(uid, deployment),
        deployment,
        deployment,
        uid,
        start,
        {"run_start": uid, "exit_status": "success"},
    )


def make_base(bench: Bench, api: PrefectApi, deployment: str) -> list[str]:
    """Have some runs processed, and one flow run fail; return the uids of the runs."""
    uids = [bench.take_run() for _ in range(BASE_RUNS)]
    made = [api.create_flow_run(submission(deployment, uid, number)).id for number, uid in enumerate(uids, 1)]
    ended = wait_until(lambda: bench.ended(made), timeout_s=300)
    if any(one["state_type"] != "COMPLETED" for one in ended):
        raise SystemExit(f"Not completed: {[one['state'] for one in ended]}")
    return uids


def looks(api: PrefectApi, ask: Callable[..., Any], deployment: str, pool: str, uids: list[str]) -> Iterator[Any]:
    """Yield what is asked of Prefect, by name."""
    numbers = itertools.count(1)
    again = submission(deployment, str(uuid.uuid4()), 1)
    wanted = [(uid, deployment) for uid in uids]

    def create() -> None:
        api.create_flow_run(submission(deployment, str(uuid.uuid4()), next(numbers)))

    def through_its_states() -> None:
        made = uuid.UUID(api.create_flow_run(submission(deployment, str(uuid.uuid4()), next(numbers))).id)
        for state in (Pending(), Running(), Completed()):
            api.client.set_flow_run_state(made, state)

    def reconcile() -> None:
        found = past_flow_runs(api, wanted, 0.0)
        if not all(found.values()):
            raise SystemExit(f"{sum(map(bool, found.values()))} flow runs found of {len(wanted)}")

    poll = f"work_pools/{pool}/get_scheduled_flow_runs"
    yield "a worker's poll, nothing waits", lambda: ask(poll, body={})
    yield "create a flow run", create
    yield "create it again: found by its key", lambda: api.create_flow_run(again)
    yield "create one, and take it through its states", through_its_states
    yield "a worker's poll, some wait", lambda: ask(poll, body={})
    yield f"reconcile's question about {WINDOW} runs", reconcile
    yield f"flows: the last {LISTED}", lambda: list(islice(recent_flow_runs(api), LISTED))
    yield "flows --scan 1", lambda: list(islice(recent_flow_runs(api, scan_id=1), LISTED))
    yield "flows, of a beamline that has none", lambda: list(islice(recent_flow_runs(api, beamline="none"), LISTED))
    yield "the last failures, each few seconds", lambda: last_failed_flow_runs(api, LISTED)
    yield "the same, of a beamline that has none", lambda: last_failed_flow_runs(api, LISTED, beamline="none")


def measure(console: Console, sizes: list[int]) -> None:
    """Print what a run leaves in the database, and what each question takes as there are more."""
    weather, facts = open_meteo(), cat_facts()
    outside = {"weather_archive_url": weather.url, "weather_forecast_url": weather.url, "cat_fact_url": facts.url}
    with ExitStack() as opened:
        opened.callback(weather.close)
        opened.callback(facts.close)
        home = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        url = opened.enter_context(empty_database())
        if url is None:
            console.print("Prefect's database is left out: there is no PostgreSQL server at 127.0.0.1:5432.")
            return
        info, settings, _ = opened.enter_context(servers(home / "state", url, outside))
        opened.enter_context(temporary_settings(prefect_settings(info)))
        api = opened.enter_context(PrefectApi(600.0, client_retries=True))
        with worker(info, settings, 0, "warm-process", None) as (deployment_id, _):
            found = info.ask_prefect(f"deployments/{deployment_id}")
            deployment, pool = f"my-workflow/{found['name']}", found["work_pool_name"]
            uids = make_base(Bench(info), api, deployment)
        failed = api.create_flow_run(submission(deployment, str(uuid.uuid4()), 9))
        api.client.set_flow_run_state(uuid.UUID(failed.id), Failed(message="as asked"), force=True)
        figures = figures_of(console, Copies(url), api, info.ask_prefect, (deployment, pool), uids, sizes)
    columns = [f"{size:,} flow runs" for size in sizes]
    console.print(growth_table("Prefect's database, in PostgreSQL", columns, figures, ON_DISK))


def figures_of(
    console: Console,
    copies: Copies,
    api: PrefectApi,
    ask: Callable[..., Any],
    names: tuple[str, str],
    uids: list[str],
    sizes: list[int],
) -> list[Mapping[str, float]]:
    """Return what each question takes at each size; print what a run leaves behind."""
    copies.take()
    each = copies.rows_of("flow_run")
    figures: list[Mapping[str, float]] = []
    for size in sizes:
        upto = size // each
        with console.status(f"Adding flow runs until there are {size:,} ..."):
            if not figures:
                empty = copies.bytes_of((*KEPT, *EVENTS))
            copies.add(upto, KEPT if figures else (*KEPT, *EVENTS))
            if not figures:
                print_weights(console, copies, empty, upto)
            copies.number = upto
        asked = [copied_uid(uid, number) for number in range(1, upto + 1) for uid in uids][:WINDOW]
        one = {}
        for name, look in looks(api, ask, *names, asked):
            with console.status(f"{size:,} flow runs: {name} ..."):
                one[name] = median_s(look, REPEATS)
        figures.append({**one, ON_DISK: copies.ask("SELECT pg_database_size(current_database())")})
        clear_waiting(api, names[1], ask)
    return figures


def clear_waiting(api: PrefectApi, pool: str, ask: Callable[..., Any]) -> None:
    """Delete what waits for a worker, so that the next size begins with none."""
    while waiting := ask(f"work_pools/{pool}/get_scheduled_flow_runs", body={}):
        for one in waiting:
            api.client.delete_flow_run(uuid.UUID(one["flow_run"]["id"]))


def print_weights(console: Console, copies: Copies, empty: Mapping[str, int], number: int) -> None:
    """Print how many rows and bytes a run of ``my-workflow`` leaves in each table."""
    table = Table("table", "rows a run", "kB a run, with indexes", title="What a run of my-workflow leaves in Prefect")
    runs, total = number * BASE_RUNS, 0.0
    for name, size in copies.bytes_of((*KEPT, *EVENTS)).items():
        bytes_a_run = (size - empty[name]) / runs
        total += bytes_a_run
        table.add_row(name, f"{copies.rows_of(name) / BASE_RUNS:.1f}", f"{bytes_a_run / 1000:.1f}")
    table.add_row("all", "", f"{total / 1000:.1f}")
    console.print(table)
