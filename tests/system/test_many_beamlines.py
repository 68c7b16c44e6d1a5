"""Two beamlines on one Prefect and one Tiled: nothing of one is in the way of the other."""

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from prefect.settings import temporary_settings
from tiled.client import from_uri

from bluesky_prefect.prefect_api import Beamline, prepare_pool
from bluesky_prefect.tiled_api import RAW_SPEC
from bluesky_prefect.tiled_api._raw_catalog import make_container
from tests.services.forked import run_code, run_command
from tests.services.prefect_process import ask, prefect_settings, user_of
from tests.services.worker_process import WorkerProcess

# A session that names no workflow and no container.
SESSION = """
import sys
from bluesky import RunEngine
from bluesky.plans import count
from bluesky_prefect import PrefectCallback
from bluesky_prefect.core import get_settings
from bluesky_prefect.tiled_api import Catalog
from bluesky_tiled_plugins import TiledWriter
from ophyd.sim import det

with Catalog.connect(get_settings()) as catalog:
    engine = RunEngine({"scan_id": 1})
    engine.subscribe(TiledWriter(catalog.raw_for_writing()))
    callback = None
    if sys.argv[1] == "subscribed":
        callback = PrefectCallback()
        engine.subscribe(callback)
    [uid] = engine(count([det]))
    assert callback is None or callback.close(60)
print(uid)
"""


class Place:
    """A beamline, as its shell sees the servers."""

    def __init__(self, stack, name, directory):
        self._stack = stack
        self.name = name
        self.list = f"{directory / name}.py:workflows"
        (directory / f"{name}.py").write_text(
            f"from bluesky_prefect import Workflow\nworkflows = [Workflow('my-workflow/{name}', since='1970-01-02')]\n"
        )
        self.environment = {
            **os.environ,
            **stack.environment(),
            "BLUESKY_PREFECT_BEAMLINE": name,
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(directory / name),
            "BLUESKY_PREFECT_SETTLE_S": "0",
        }
        del self.environment["BLUESKY_PREFECT_WORKFLOWS"]

    def run(self, *arguments, **environment):
        done = run_command(*arguments, env={**self.environment, **environment})
        return done.returncode, done.stdout, " ".join((done.stdout + done.stderr).split())

    def deploy(self, *options, **environment):
        return self.run("deploy", "--beamline", self.name, *options, **environment)[::2]

    def take_scan_2(self, how="subscribed"):
        done = run_code(SESSION, how, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def flows(self, *options):
        code, out, said = self.run("flows", "--json", *options)
        assert code == 0, said
        return {one["run_uid"]: one["beamline"] for one in json.loads(out)["flow_runs"]}

    def ask(self, method, path, **content):
        return ask(self._stack, method, path, **content).raise_for_status().json()

    def deployment(self, flow="my-workflow"):
        return self.ask("GET", f"/deployments/name/{flow}/{self.name}")

    def flow_runs(self, uid):
        return self.ask("POST", "/flow_runs/filter", json={"flow_runs": {"tags": {"all_": [f"uid:{uid}"]}}})


@pytest.fixture(scope="module")
def places(stack, tmp_path_factory):
    made = [Place(stack, name, tmp_path_factory.mktemp("beamlines")) for name in ("tst", "xpd")]
    for one in made:
        code, one.said = one.deploy()
        assert code == 0, one.said
    return made


def test_deploy_makes_all_that_a_beamline_needs_and_says_so(places, stack):
    tst, _ = places
    for line in (
        "Made the work pool bluesky-tst, whose flow runs are of beamline tst. Start a worker",
        "go in the order of its queues: live, default, backlog.",
        f"The catalog tst/raw of Tiled at {stack.tiled_uri} is ready now.",
        f"The container tst/processed of Tiled at {stack.tiled_uri} is ready now.",
        "Deployed my-workflow/tst.",
        "Deployed find-peak/tst.",
    ):
        assert line in tst.said
    for flow in ("my-workflow", "data-validation", "find-peak"):
        found = tst.deployment(flow)
        assert (found["work_pool_name"], found["tags"]) == ("bluesky-tst", ["beamline:tst"])
    root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
    assert [(one.name, one.version) for one in root["tst", "raw"].specs] == [RAW_SPEC]
    assert "processed" in root["tst"]
    root.context.close()


def test_deploying_again_changes_nothing_and_says_so(places):
    tst, _ = places
    before = tst.ask("GET", "/work_pools/bluesky-tst"), tst.deployment()["description"]
    code, said = tst.deploy()
    assert code == 0
    assert "The work pool bluesky-tst was there already." in said
    assert said.count("was ready already") == 2
    after = tst.ask("GET", "/work_pools/bluesky-tst"), tst.deployment()["description"]
    assert before[0]["base_job_template"] == after[0]["base_job_template"]
    assert before[1] == after[1]


def test_where_nothing_names_a_server_the_running_local_stack_gets_the_deployments(places, stack):
    tst, _ = places
    nothing = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TILED_"))}
    command = [sys.executable, "-m", "bluesky_prefect", "deploy", "--beamline", "srx"]
    command += ["--state-directory", str(stack.state_directory)]

    def run(*options):
        done = subprocess.run([*command, *options], env=nothing, capture_output=True, text=True)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    code, said = run()
    assert code == 0, said
    assert f"The catalog srx/raw of Tiled at {stack.tiled_uri} is ready now." in said
    assert tst.ask("GET", "/deployments/name/my-workflow/srx")["work_pool_name"] == "bluesky-srx"
    code, said = run("--reconcile-every", "60")
    assert code == 1
    assert "--workflows" in said, "the stack's list is not the beamline's"


def test_deploying_a_beamline_twice_at_the_same_moment_succeeds_twice(stack, tmp_path):
    beamline = Beamline("two", "", {"BLUESKY_PREFECT_BEAMLINE": "two"})

    async def prepare():
        return await asyncio.gather(*(prepare_pool("bluesky-two", beamline) for _ in range(4)))

    with temporary_settings(prefect_settings(stack)):
        said = asyncio.run(prepare())
    assert sorted("was there already" in one for one in said) == [False, True, True, True]

    def make(path, begin):
        root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
        begin.wait(60)
        try:
            make_container(root, path)
            return "/".join(root[tuple(path.split("/"))].path_parts)
        finally:
            root.context.close()

    with ThreadPoolExecutor(4) as threads:
        for path in (f"two-{number}/raw" for number in range(5)):
            begin = Barrier(4)
            assert {one.result() for one in [threads.submit(make, path, begin) for _ in range(4)]} == {path}


def test_a_name_that_is_used_with_another_catalog_is_refused_and_both_are_named(places, stack):
    tst, _ = places
    elsewhere = {"BLUESKY_PREFECT_RAW_CONTAINER": "other/raw"}
    before = tst.deployment()
    code, said = tst.deploy(**elsewhere)
    assert code == 1
    assert f"my-workflow/tst, which is for the catalog tst/raw of Tiled at {stack.tiled_uri}" in said
    assert f"and this is for the catalog other/raw of Tiled at {stack.tiled_uri}" in said
    assert "--move" in said
    assert tst.deployment() == before, "nothing was changed"
    code, said = tst.deploy("--move", **elsewhere)
    assert code == 0, said
    assert tst.deployment()["job_variables"]["env"]["BLUESKY_PREFECT_RAW_CONTAINER"] == "other/raw"
    assert tst.deploy("--move")[0] == 0


def test_deploying_where_tiled_is_not_known_leaves_the_catalog_as_it_is(places, monkeypatch):
    tst, _ = places
    before = tst.deployment()["description"]
    monkeypatch.delitem(tst.environment, "BLUESKY_PREFECT_TILED_URI")
    code, said = tst.deploy()
    assert code == 0
    assert "tst/raw and tst/processed are to be made in Tiled by somebody who may (make-catalog)." in said
    assert tst.deployment()["description"] == before


def test_a_name_that_is_used_with_another_list_is_refused(places):
    tst, xpd = places
    every = ("--reconcile-every", "86400", "--workflows")
    assert tst.deploy(*every, tst.list)[0] == 0
    code, said = tst.deploy(*every, xpd.list)
    assert code == 1
    assert f"reconcile/tst, which is for workflows={tst.list}, and this is for workflows={xpd.list}" in said
    assert tst.deployment("reconcile")["parameters"] == {"workflows": tst.list}


def test_the_work_pool_of_another_beamline_is_refused(places):
    _, xpd = places
    code, said = xpd.deploy("--work-pool", "bluesky-tst", "--name", "guest")
    assert code == 1
    assert "'bluesky-tst' belongs to beamline 'tst'" in said


def test_each_beamline_sees_its_own_scan_2_and_on_request_the_other_s(places):
    uids = {one.name: one.take_scan_2() for one in places}
    tst, xpd = places
    for one in places:
        [flow_run] = one.flow_runs(uids[one.name])
        assert flow_run["deployment_id"] == one.deployment()["id"]
        assert (flow_run["work_pool_name"], flow_run["work_queue_name"]) == (f"bluesky-{one.name}", "live")
        assert f"beamline:{one.name}" in flow_run["tags"]
        assert one.flows("--scan", "2") == {uids[one.name]: one.name}
    assert tst.flows("--scan", "2", "--beamline", "xpd") == {uids["xpd"]: "xpd"}
    assert xpd.flows("--scan", "2", "--beamline", "*").items() >= {uids["tst"]: "tst", uids["xpd"]: "xpd"}.items()
    assert "Beamline" in tst.run("flows", "--scan", "2")[1]


@pytest.mark.parametrize(("name", "options"), [("TST", ()), ("nsls", ("--failed",)), ("nsls", ("--json",))])
def test_a_beamline_that_prefect_does_not_know_is_told_of_with_those_that_it_knows(places, name, options):
    code, _, said = places[0].run("flows", "--beamline", name, *options)
    assert code == 1
    assert f"Prefect has no deployment and no flow run of a beamline '{name}'. It has those of" in said
    assert "tst, xpd." in said


def test_a_beamline_without_flow_runs_and_one_s_own_are_no_mistake(places):
    tst, xpd = places
    for one in (
        tst.run("flows", "--scan", "77", "--beamline", xpd.name),
        tst.run("flows", BLUESKY_PREFECT_BEAMLINE="new"),
    ):
        assert (one[0], one[1]) == (0, "No flow runs.\n")


def test_a_worker_of_its_pool_reads_the_catalog_of_the_beamline(places, stack, tmp_path):
    tst, _ = places
    uid = tst.take_scan_2()
    worker = WorkerProcess(stack.prefect_api_url, tmp_path, "bluesky-tst", user=user_of(stack))
    try:
        # Nothing here names the beamline, or a container.
        alone = {"BLUESKY_PREFECT_WEATHER": "false", "BLUESKY_PREFECT_CAT_FACT": "false"}
        worker.start(**{**stack.environment(), **alone, "BLUESKY_PREFECT_OUTPUT_DIRECTORY": str(tmp_path / "exports")})
        [flow_run] = tst.flow_runs(uid)
        assert worker.wait(flow_run["id"])["state_type"] == "COMPLETED", worker.messages(flow_run["id"])
    finally:
        worker.close()


def test_reconcile_starts_what_is_missing_of_its_own_beamline_only(places):
    tst, xpd = places
    ours, theirs = tst.take_scan_2("unsubscribed"), xpd.take_scan_2("unsubscribed")
    _, _, said = tst.run("reconcile", "--since", "1h", "--submit", "--workflows", tst.list)
    [flow_run] = tst.flow_runs(ours)
    assert (flow_run["work_queue_name"], flow_run["work_pool_name"]) == ("backlog", "bluesky-tst"), said
    assert "beamline:tst" in flow_run["tags"]
    assert xpd.flow_runs(theirs) == []
    assert theirs[:8] not in said
