"""A plan waits for a flow: a real RunEngine, a real Prefect, and flow runs that end as a test wants them to."""

import threading
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import RequestAbort, RunEngineInterrupted
from ophyd import Signal
from ophyd.sim import det
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

import bluesky_prefect.plan_stubs._wait_for_flow
from bluesky_prefect import (
    BlueskyPrefectError,
    FlowFailed,
    FlowTimeout,
    PrefectCallback,
    Settings,
    Workflow,
    wait_for_flow,
)
from bluesky_prefect.core import Submission, submission_key
from bluesky_prefect.outbox import Draft, stopped_runs
from bluesky_prefect.outbox._stopped_runs import StoppedRuns
from bluesky_prefect.prefect_api import PrefectApi, flow_run_url
from bluesky_prefect.watch import flow_runs_of
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import user_of, wait_until
from tests.system.hutch import DEPLOYMENT, idle_deployment

# bluesky's RunEngine leaves its event loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


_WAITING = "bluesky-prefect-wait"  # the thread that asks Prefect, as long as the plan does not know


class Beamline:
    """A RunEngine whose runs start a workflow that nobody works on."""

    def __init__(self, settings: Settings, *workflows: str | Workflow) -> None:
        self.callback = PrefectCallback(workflows or DEPLOYMENT, settings=settings)
        self.engine = RunEngine(context_managers=[])
        self.engine.subscribe(self.callback)
        self.events = 0
        self.engine.subscribe(self._count_events, "event")
        self.waits = threading.Event()
        self.engine.msg_hook = self._notice
        self.result = None

    def run(self, plan) -> None:
        """Do a plan; what it returns is `result`."""

        def keeping_the_result():
            self.result = yield from plan

        self.engine(keeping_the_result())

    def meanwhile(self, do: Callable[[], object]) -> threading.Thread:
        """Do something on another thread once a plan waits."""

        def run() -> None:
            assert self.waits.wait(60)
            do()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def _notice(self, message) -> None:
        if message.command == "wait_for":
            self.waits.set()

    def _count_events(self, *_: object) -> None:
        self.events += 1


@pytest.fixture(scope="module")
def prefect(stack):
    """Have all threads of this process talk to the stack's Prefect."""
    with pytest.MonkeyPatch.context() as patch, idle_deployment(stack):
        patch.setenv("PREFECT_API_URL", stack.prefect_api_url)
        patch.setenv("PREFECT_API_AUTH_STRING", user_of(stack))
        refresh_global_settings_context()
        yield
    refresh_global_settings_context()


@pytest.fixture
def settings(stack, tmp_path, monkeypatch):
    settings = Settings(
        state_directory=tmp_path,
        retry_initial_s=0.1,
        tiled_uri=stack.tiled_uri,
        tiled_api_key=stack.tiled_api_key.get_secret_value(),
    )
    monkeypatch.setattr(bluesky_prefect.plan_stubs._wait_for_flow, "get_settings", lambda: settings)
    return settings


@pytest.fixture
def beamline(prefect, settings):
    beamline = Beamline(settings)
    yield beamline
    beamline.callback.close()


def flow_run_of(uid: str) -> str:
    """Return the id of the flow run of a run, once it is there."""

    def flow_runs():
        with PrefectApi(30, client_retries=True) as api:
            return flow_runs_of(api, uid)

    [status] = wait_until(flow_runs)
    return status.flow_run_id


def end(uid: str, *states) -> None:
    """Have the flow run of a run go through states, once it is there."""

    flow_run_id = flow_run_of(uid)
    with get_client(sync_client=True) as client:
        for state in states:
            client.set_flow_run_state(UUID(flow_run_id), state, force=True)


def last_uid() -> str:
    return stopped_runs.last().uid


def count_and_wait(**options):
    yield from bp.count([det], 2)
    return (yield from wait_for_flow(timeout_s=60, **options))


def test_a_plan_gets_what_came_of_its_last_run(beamline, stack):
    thread = beamline.meanwhile(lambda: end(last_uid(), Running(), Completed(message="3 points")))
    beamline.run(count_and_wait())
    thread.join()
    result = beamline.result
    assert (result.state, result.message, result.workflow) == ("Completed", "3 points", DEPLOYMENT)
    assert result.run_uid == last_uid()
    assert result.url == flow_run_url(stack.prefect_ui_url, result.flow_run_id)
    assert result.flow_run_name.endswith(result.run_uid[:8])
    assert result.started
    assert (result.files, dict(result.processed), result.problems) == ((), {}, ())


@pytest.mark.parametrize(
    "state", [Failed(message="no such sample"), Crashed(message="killed"), Cancelled(message="by hand")]
)
def test_a_flow_run_that_did_not_complete_can_be_caught_in_the_plan(beamline, state):
    def plan():
        try:
            yield from count_and_wait()
        except FlowFailed as error:
            yield from bps.null()  # the plan goes on
            return error

    thread = beamline.meanwhile(lambda: end(last_uid(), Running(), state))
    beamline.run(plan())
    thread.join()
    error = beamline.result
    assert (error.run_uid, error.state) == (last_uid(), state.name)
    assert state.message in str(error)
    assert error.flow_run_id in str(error)


def test_the_time_is_bounded_and_the_reason_told(beamline):
    beamline.run(bp.count([det], 1))
    flow_run_of(last_uid())
    with pytest.raises(FlowTimeout, match=r"has not ended after 5 s: Scheduled"):
        beamline.run(wait_for_flow(timeout_s=5))
    assert beamline.engine.state == "idle"


def test_a_run_that_opted_out_is_not_waited_for(beamline):
    def plan():
        uid = yield from bp.count([det], 1, md={"prefect": False})
        return (yield from wait_for_flow(uid))

    beamline.run(plan())
    assert not beamline.result.started
    assert "opted out" in beamline.result.message


def refuses(run):
    return False


def breaks(run):
    raise ValueError("no such key")


@pytest.fixture
def beamline_of_many(prefect, settings):
    workflows = [
        Workflow(DEPLOYMENT),
        Workflow(DEPLOYMENT, name="refuses", when=refuses),
        Workflow(DEPLOYMENT, name="breaks", when=breaks),
    ]
    beamline = Beamline(settings, *workflows)
    yield beamline
    beamline.callback.close()


def test_of_several_workflows_one_is_to_be_named(beamline_of_many):
    def plan():
        yield from bp.count([det], 1)
        unwanted = yield from wait_for_flow(workflow="refuses")
        errors = []
        for options in ({"workflow": "breaks"}, {"workflow": "unknown"}, {}):
            try:
                yield from wait_for_flow(**options, timeout_s=60)
            except BlueskyPrefectError as error:
                errors.append(error)
        return unwanted, errors

    beamline_of_many.run(plan())
    unwanted, (dead, unknown, unnamed) = beamline_of_many.result
    assert not unwanted.started
    assert isinstance(dead, FlowFailed)
    assert "Dead letter: when= or parameters= of workflow 'breaks' failed: ValueError: no such key" in str(dead)
    assert "'unknown' here. This session's workflows: 'reconcile-test/idle', 'refuses', 'breaks'" in str(unknown)
    assert "Say which: wait_for_flow(workflow=" in str(unnamed)


def test_several_runs_are_waited_for_together(beamline):
    def plan():
        uids = []
        for _ in range(2):
            uids.append((yield from bp.count([det], 1)))
        uids.append((yield from bp.count([det], 1, md={"prefect": False})))
        threads = [beamline.meanwhile(lambda uid=uid: end(uid, Running(), Completed())) for uid in uids[:2]]
        results = yield from wait_for_flow(uids, timeout_s=60)
        return uids, threads, results

    beamline.run(plan())
    uids, threads, results = beamline.result
    for thread in threads:
        thread.join()
    assert list(results) == uids
    assert [results[uid].state for uid in uids] == ["Completed", "Completed", "Not started"]


def test_a_run_that_started_elsewhere_is_found_and_its_last_flow_run_counts(beamline, monkeypatch):
    uid = str(uuid4())
    with PrefectApi(30, client_retries=True) as api:
        for generation in range(2):
            key = submission_key(uid, DEPLOYMENT, generation)
            start = {"uid": uid, "scan_id": 7}
            api.create_flow_run(Submission(key, DEPLOYMENT, DEPLOYMENT, uid, start, generation=generation))
            end(uid, Running(), Completed(message="again") if generation else Crashed())
    beamline.run(wait_for_flow(uid, timeout_s=60))
    assert beamline.result.message == "again"


def test_a_workflow_that_refused_a_run_of_another_session_is_not_waited_for(beamline):
    uid = str(uuid4())
    drafts = [Draft(Submission(submission_key(uid, name), name, DEPLOYMENT, uid), "declined") for name in ("a", "b")]
    beamline.callback.outbox.put_all(drafts)
    for options in ({}, {"workflow": "b"}):
        beamline.run(wait_for_flow(uid, timeout_s=60, **options))
        assert not beamline.result.started
        assert "did not want the run" in beamline.result.message


def test_a_run_that_nobody_knows_of_is_not_waited_for_for_ever(beamline):
    with pytest.raises(FlowTimeout, match="it is unknown to this session, the outbox and Prefect"):
        beamline.run(wait_for_flow(str(uuid4()), timeout_s=5))


def test_without_a_run_there_is_nothing_to_wait_for(beamline, monkeypatch):
    monkeypatch.setattr(bluesky_prefect.plan_stubs._wait_for_flow, "stopped_runs", StoppedRuns())
    with pytest.raises(BlueskyPrefectError, match="give the run's uid"):
        beamline.run(wait_for_flow())


@pytest.mark.parametrize("defer", [False, True])
def test_a_wait_can_be_paused_and_resumed(beamline, defer):
    thread = beamline.meanwhile(lambda: beamline.engine.request_pause(defer))
    with pytest.raises(RunEngineInterrupted):
        beamline.run(count_and_wait())
    thread.join()
    assert beamline.engine.state == "paused"
    beamline.waits.clear()
    thread = beamline.meanwhile(lambda: end(last_uid(), Running(), Completed(message="after a pause")))
    beamline.engine.resume()
    thread.join()
    assert beamline.result.message == "after a pause"
    assert beamline.events == 2, "nothing is measured again"


def test_what_ends_during_a_pause_is_known_after_it(beamline):
    thread = beamline.meanwhile(beamline.engine.request_pause)
    with pytest.raises(RunEngineInterrupted):
        beamline.run(count_and_wait())
    thread.join()
    end(last_uid(), Running(), Failed(message="meanwhile"))
    with pytest.raises(FlowFailed, match="meanwhile"):
        beamline.engine.resume()


def test_a_wait_can_be_aborted_and_leaves_no_thread(beamline):
    thread = beamline.meanwhile(lambda: beamline.engine.abort("enough"))
    with pytest.raises((RunEngineInterrupted, RequestAbort)):
        beamline.run(count_and_wait())
    thread.join()
    wait_until(lambda: beamline.engine.state == "idle")
    wait_until(lambda: _WAITING not in {one.name for one in threading.enumerate()})


def test_a_suspender_holds_the_plan_not_the_flow(beamline):
    beam_is_off = Signal(name="beam_is_off", value=0)
    beamline.engine.install_suspender(SuspendBoolHigh(beam_is_off))
    states = []

    def suspend() -> None:
        beam_is_off.put(1)
        end(last_uid(), Running(), Completed(message="in the dark"))
        wait_until(lambda: _WAITING not in {one.name for one in threading.enumerate()})
        states.append(beamline.result)
        beam_is_off.put(0)

    thread = beamline.meanwhile(suspend)
    beamline.run(count_and_wait())
    thread.join()
    assert states == [None], "it was known, and the plan held"
    assert beamline.result.message == "in the dark"
    assert beamline.events == 2


def test_an_outage_of_prefect_is_waited_out_and_told_if_it_is_too_long(stack, prefect, settings, monkeypatch):
    proxy = FaultProxy(urlsplit(stack.prefect_api_url).port)
    proxy.mode = "refuse"
    monkeypatch.setenv("PREFECT_API_URL", f"{proxy.url}/api")
    refresh_global_settings_context()
    beamline = Beamline(settings)

    def plan():
        uid = yield from bp.count([det], 1)
        try:
            yield from wait_for_flow(uid, timeout_s=5)
        except FlowTimeout as error:
            told = str(error)
        proxy.mode = "pass"
        thread = threading.Thread(target=lambda: end(uid, Running(), Completed()))
        thread.start()
        result = yield from wait_for_flow(uid, timeout_s=60)
        thread.join()
        return told, result

    beamline.run(plan())
    told, result = beamline.result
    assert "cannot be reached" in told
    assert result.state == "Completed"
    beamline.callback.close()
    proxy.close()
    monkeypatch.undo()
    refresh_global_settings_context()
