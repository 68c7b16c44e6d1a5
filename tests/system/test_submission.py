"""From a stop document to exactly one flow run: a real acquisition process and a real Prefect server."""

import signal
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.settings.models.server.api import ServerAPISettings

from bluesky_prefect import Outbox
from bluesky_prefect.core import Submission, SubmissionRefused, jsonable
from bluesky_prefect.prefect_api import PrefectApi
from bluesky_prefect.prefect_api._parameter_size import SERVER_LIMIT
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import PrefectProcess, wait_until
from tests.system.session import REQUEST_TIMEOUT_S, Acquisition

DEPLOYMENT = "my-workflow/local"
OTHER = "other-workflow/local"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory, made_databases):
    server = PrefectProcess(tmp_path_factory.mktemp("prefect"), databases=made_databases)
    try:
        server.start()
        for deployment in (DEPLOYMENT, OTHER):
            server.deploy(deployment, "ref", ref={})
        yield server
    finally:
        server.kill()


@pytest.fixture
def acquire(tmp_path, prefect):
    started = []

    def start(*deployments: str, api_url: str = prefect.url, **limits: int) -> Acquisition:
        environment = {"PREFECT_API_URL": api_url}
        acquisition = Acquisition(tmp_path / "state", environment, *(deployments or (DEPLOYMENT,)), **limits)
        started.append(acquisition)
        return acquisition

    yield start
    for acquisition in started:
        if acquisition.process.poll() is None:
            acquisition.kill()


def test_each_run_starts_one_flow_run_that_a_person_finds(acquire, prefect):
    uids = acquire().count(3)
    found = wait_until(lambda: len(prefect.flow_runs(*uids)) == 3 and prefect.flow_runs(*uids))
    assert [flow_run["parameters"] for flow_run in found] == [{"ref": uid} for uid in uids]
    assert [flow_run["name"] for flow_run in found] == [f"scan-{n}-count-{uid[:8]}" for n, uid in enumerate(uids, 1)]
    assert set(found[0]["tags"]) == {"scan_id:1", "plan_name:count", f"uid:{uids[0]}"}


@pytest.mark.parametrize("status", ["500", "502", "504"])
def test_a_submission_that_alone_meets_trouble_on_its_way_holds_up_no_other(acquire, prefect, status):
    with closing(FaultProxy(prefect.port)) as proxy:
        proxy.victim_answer = status
        acquisition = acquire(DEPLOYMENT, OTHER, api_url=f"{proxy.url}/api")
        uids = acquisition.count(4)
        wait_until(lambda: len(prefect.flow_runs(*uids)) == 7)
        wait_until(lambda: proxy.struck >= 3)
        proxy.victim_answer = None
        found = wait_until(lambda: len(prefect.flow_runs(*uids)) == 8 and prefect.flow_runs(*uids))
        assert len({flow_run["idempotency_key"] for flow_run in found}) == 8
        assert found[-1]["idempotency_key"] == proxy.victim


def test_a_submission_sent_twice_makes_one_flow_run(prefect):
    submission = Submission("twice:key", DEPLOYMENT, DEPLOYMENT, "twice")
    with temporary_settings({PREFECT_API_URL: prefect.url}), PrefectApi(timeout_s=30) as api:
        assert api.create_flow_run(submission) == api.create_flow_run(submission)
    assert len(prefect.flow_runs("twice")) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"__prefect_kind": "jinja", "template": "{{ 6 * 7 }}"},
        {"__prefect_kind": "jinja", "template": "{{ "},
        {"__prefect_kind": "workspace_variable", "variable_name": "any"},
        {"__prefect_kind": ["a list", "where Prefect expects text"]},
    ],
    ids=["template", "broken template", "variable", "broken kind"],
)
def test_metadata_that_prefects_server_would_interpret_arrives_as_data(prefect, metadata):
    prefect.deploy("takes-documents/local", start_doc={})
    uid = f"hostile-{len(str(metadata))}"
    submission = Submission(uid, "hostile", "takes-documents/local", uid, {"uid": uid, "sample": [metadata]})
    with temporary_settings({PREFECT_API_URL: prefect.url}), PrefectApi(timeout_s=30) as api:
        api.create_flow_run(submission)
    [flow_run] = prefect.flow_runs(uid)
    assert flow_run["parameters"]["start_doc"]["sample"] == [
        {r"\x5f_prefect_kind" if key == "__prefect_kind" else key: value for key, value in metadata.items()}
    ]


START = {"uid": "", "time": 1.5, "scan_id": 7, "plan_name": "count", "sample": {"name": "Fe"}}
STOP = {"run_start": "", "exit_status": "success", "num_events": {"primary": 3}}


@pytest.mark.parametrize(
    ("name", "large"),
    [
        ("600kB", {"log": "x" * 600_000}),
        ("ascii", {"log": "\u6f22" * 100_000}),
        ("20MB", {f"log-{number}": "x" * 10**6 for number in range(20)}),
        ("list", {"mask": list(range(100_000, 149_000)), "profile": list(range(100_000, 140_000))}),
        ("keys", {f"a key of many, number {number}": number for number in range(40_000)}),
    ],
)
def test_metadata_too_large_for_prefect_cost_no_flow_run_and_no_routing_key(prefect, name, large):
    prefect.deploy("takes-all/local", uid={}, plan_name={}, start_doc={"type": "object"}, stop={"type": "object"})
    uid = f"large-{name}"
    start, stop = jsonable({**large, **START, "uid": uid}), jsonable({**large, **STOP, "run_start": uid})
    submission = Submission(uid, "large", "takes-all/local", uid, start, stop)
    with temporary_settings({PREFECT_API_URL: prefect.url}), PrefectApi(timeout_s=30) as api:
        api.create_flow_run(submission)
    [flow_run] = prefect.flow_runs(uid)
    sent = flow_run["parameters"]
    assert (sent["uid"], sent["plan_name"]) == (uid, "count")
    assert all(sent["start_doc"][key] == start[key] for key in ("uid", "time", "scan_id", "plan_name"))
    assert all(sent["stop"][key] == stop[key] for key in ("run_start", "exit_status"))
    assert "Tiled has" in str(sent)
    if name != "keys":
        assert sent["start_doc"].keys() == start.keys()
        assert sent["start_doc"]["sample"] == {"name": "Fe"}
        assert sent["stop"]["num_events"] == {"primary": 3}


def test_parameters_too_large_for_prefect_are_refused_with_limit_and_remedy(prefect):
    prefect.deploy("takes-image/local", image={}, threshold={})
    given = {"threshold": 0.5, "image": "x" * 600_000}
    submission = Submission("too-large", "large", "takes-image/local", "too-large", START, STOP, given)
    with temporary_settings({PREFECT_API_URL: prefect.url}), PrefectApi(timeout_s=30) as api:
        with pytest.raises(SubmissionRefused, match=r"'image' has 600002; Prefect's server takes 524288.* Tiled"):
            api.create_flow_run(submission)
        fitting = replace(submission, key="fits", overrides={"image": "x" * 500_000})
        api.create_flow_run(fitting)


def test_the_limit_of_parameters_is_the_default_of_the_installed_prefect():
    assert ServerAPISettings.model_fields["max_parameter_size"].default == SERVER_LIMIT


def test_a_script_that_ends_right_after_its_scan_has_its_run_sent(acquire, prefect):
    acquisition = acquire()
    began = time.monotonic()
    uids = acquisition.count(1)
    if "Still to be sent: 1 " in acquisition.end():
        assert time.monotonic() - began >= REQUEST_TIMEOUT_S  # the machine is this slow
        following = acquire()
        wait_until(lambda: following.outbox_counts() == (0, 1, 0))
    assert len(prefect.flow_runs(*uids)) == 1


def test_runs_made_while_prefect_is_down_get_one_flow_run_each_when_it_is_up(acquire, prefect):
    acquisition = acquire()
    before = acquisition.count(1)
    wait_until(lambda: acquisition.outbox_counts() == (0, 1, 0))
    prefect.kill()
    try:
        during = acquisition.count(5)
        assert acquisition.outbox_counts() == (5, 1, 0)
    finally:
        prefect.start()
    after = acquisition.count(1)
    wait_until(lambda: acquisition.outbox_counts() == (0, 7, 0))
    found = prefect.flow_runs(*before, *during, *after)
    assert [flow_run["parameters"]["ref"] for flow_run in found] == [*before, *during, *after]


def test_runs_while_prefect_never_answers_get_one_flow_run_each(acquire, prefect):
    acquisition = acquire()
    acquisition.count(1)
    wait_until(lambda: acquisition.outbox_counts() == (0, 1, 0))
    prefect.send_signal(signal.SIGSTOP)
    try:
        uids = acquisition.count(3)
        # Time enough for a request to run into its time-out and be tried again.
        wait_until(lambda: _attempts(acquisition, uids[0]) >= 1)
    finally:
        prefect.send_signal(signal.SIGCONT)
    wait_until(lambda: acquisition.outbox_counts() == (0, 4, 0))
    assert [len(prefect.flow_runs(uid)) for uid in uids] == [1, 1, 1]


def _attempts(acquisition: Acquisition, uid: str) -> int:
    outbox = Outbox(Path(_environment(acquisition)["BLUESKY_PREFECT_STATE_DIRECTORY"]) / "outbox.sqlite")
    [entry] = outbox.entries(run_uid=uid)
    outbox.close()
    return entry.attempts


def _environment(acquisition: Acquisition) -> dict[str, str]:
    text = Path(f"/proc/{acquisition.process.pid}/environ").read_text()
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def test_a_session_killed_right_after_a_stop_loses_nothing(acquire, prefect):
    prefect.kill()
    try:
        killed = acquire()
        uids = killed.count(2)
        killed.kill()
    finally:
        prefect.start()
    assert prefect.flow_runs(*uids) == []
    following = acquire()
    wait_until(lambda: following.outbox_counts() == (0, 2, 0))
    assert [flow_run["parameters"]["ref"] for flow_run in prefect.flow_runs(*uids)] == uids


def test_a_run_that_finds_the_disk_full_is_sent_from_memory_and_told(acquire, prefect):
    acquisition = acquire(largest_file_bytes=300_000)
    uids = [acquisition.run("hostile"), *acquisition.count(1)]  # the first one's metadata do not fit
    wait_until(lambda: len(prefect.flow_runs(*uids)) == 2)
    wait_until(lambda: acquisition.outbox_counts() == (0, 1, 0))
    assert f"Run {uids[0]} is kept in memory only" in acquisition.end()
    assert [len(prefect.flow_runs(uid)) for uid in uids] == [1, 1]


def test_two_sessions_on_one_outbox_send_each_run_once(acquire, prefect):
    one, two = acquire(), acquire()
    uids = [*one.count(10), *two.count(10)]
    wait_until(lambda: one.outbox_counts() == (0, 20, 0))
    assert len(prefect.flow_runs(*uids)) == 20


def test_a_missing_deployment_is_waited_for_and_told_once(acquire, prefect):
    acquisition = acquire("my-workflow/not-yet")
    uids = acquisition.count(2)
    wait_until(lambda: _attempts(acquisition, uids[0]) >= 2)
    prefect.deploy("my-workflow/not-yet", "ref", ref={})
    wait_until(lambda: acquisition.outbox_counts() == (0, 2, 0))
    assert acquisition.end().count("has no deployment 'my-workflow/not-yet'.") == 1


def test_a_required_parameter_that_nothing_fills_is_a_dead_letter_that_says_so(acquire, prefect, tmp_path):
    prefect.deploy("tomo/gpu", "ref", "sample", ref={}, sample={})
    acquisition = acquire("tomo/gpu")
    [uid] = acquisition.count(1)
    wait_until(lambda: acquisition.outbox_counts() == (0, 0, 1))
    outbox = Outbox(tmp_path / "state" / "outbox.sqlite")
    [dead] = outbox.entries(state="dead")
    outbox.close()
    assert "tomo/gpu requires sample, which nothing fills" in dead.reason
    assert prefect.flow_runs(uid) == []
    assert uid in acquisition.end()
