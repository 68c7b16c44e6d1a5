"""People are told of failed flow runs, by a real Prefect server to a real receiver; the flow runs do not notice."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from apprise.plugins.slack import NotifySlack
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.states import Completed, Crashed, Failed, Running

from bluesky_prefect import Workflow, succeeded
from bluesky_prefect.core import DeploymentMissing, PrefectUnavailable, Run, Submission, as_workflows
from bluesky_prefect.prefect_api import PrefectApi, flow_run_url
from bluesky_prefect.prefect_api._notifications import TAG, Notifications, automation
from bluesky_prefect.prefect_api._run_failure import run_failure_event
from bluesky_prefect.reconciliation import FlowRunStarter
from tests.services.fault_proxy import FaultProxy
from tests.services.forked import run_code
from tests.services.prefect_process import user_of, wait_until
from tests.services.receiver import Receiver
from tests.system.hutch import DEPLOYMENT, idle_deployment
from tests.system.secret_search import found_in
from tests.system.session import Acquisition

# apprise, through which Prefect's blocks send, imports it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "how-to" / "be-told-of-failures.md"
BLOCK = "slack/mon-beamline"
SECRET = "T0B0-s3cret-of-the-webhook"
# What the session below subscribes; it finds them by their place, as a facility's does.
WORKFLOWS = as_workflows([Workflow("tomo-recon/gpu", notify=BLOCK, notify_on=("failure", "success"))])
RUN_FAILURES = as_workflows(
    [
        Workflow(DEPLOYMENT, when=succeeded, notify=BLOCK, notify_on="run-failure"),
        Workflow(DEPLOYMENT, name="second", when=succeeded, notify=BLOCK, notify_on=["run-failure", "failure"]),
    ]
)
DEPLOY = """
import sys
from prefect import flow
flow.from_source(source=sys.argv[1], entrypoint="beamline_flows.py:tomo_recon").deploy(
    name="gpu", work_pool_name=sys.argv[2], print_next_steps=False, ignore_warnings=True)
"""


class Told:
    """A Prefect server with blocks that send to a receiver, and a deployment that nobody works on."""

    def __init__(self, stack, receiver):
        self.stack = stack
        self.receiver = receiver
        self.numbers = iter(range(8000, 9000))

    def end(self, block, *states, notice="failure", tell=True, plan_name="count"):
        """Make a flow run that ends so; return its name, which is in its messages."""
        scan_id = next(self.numbers)
        start = {"scan_id": scan_id, "plan_name": plan_name}
        uid = f"{scan_id:08}-told"
        submission = Submission(f"{uid}:w", "w", DEPLOYMENT, uid, start, notify=[f"{notice}:{block}"])
        with PrefectApi(30, client_retries=True) as api, get_client(sync_client=True) as client:
            flow_run = api.create_flow_run(submission)
            for state in states:
                client.set_flow_run_state(UUID(flow_run.id), state, force=True)
            assert client.read_flow_run(UUID(flow_run.id)).state.type == states[-1].type
        if tell:
            wait_until(lambda: self.receiver.received(f"scan-{scan_id}-"))
        return flow_run.name

    def shell(self, command, answer=""):
        """Run a command as a person does, who answers what it asks for."""
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = {**os.environ, **self.stack.environment(), "PATH": path}
        subprocess.run(["/bin/sh", "-c", command], env=environment, input=answer + "\n", text=True, check=True)

    def log(self):
        return "".join(path.read_text() for path in self.stack.logs.iterdir() if "prefect" in path.name)


@pytest.fixture(scope="module")
def told(stack):
    with idle_deployment(stack), closing(Receiver()) as receiver:
        # Apprise's name for plain HTTP with JSON, since Slack's own address is not to be had here.
        SlackWebhook(url=f"json://{receiver.address}/{SECRET}").save("mon-beamline")
        yield Told(stack, receiver)


@pytest.fixture(scope="module")
def session(told, stack, stack_settings, tmp_path_factory):
    """Three scans, whose flow runs fail, are killed and are well; everything of it that is on disk or in a log."""
    environment = {**os.environ, **stack.environment()}
    run_code(DEPLOY, str(HERE), stack_settings.work_pool, env=environment).check_returncode()
    folder = tmp_path_factory.mktemp("told")
    environment = {
        "PREFECT_API_URL": stack.prefect_api_url,
        "PREFECT_API_AUTH_STRING": user_of(stack),
        "BLUESKY_PREFECT_WORKFLOWS": "tests.system.test_notifications:WORKFLOWS",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    acquisition = Acquisition(folder, environment)
    try:
        uids = acquisition.count(3)
        wait_until(lambda: acquisition.outbox_counts() == (0, 3, 0))
    finally:
        (folder / "session.log").write_text(acquisition.end())
    return folder, uids


def test_a_facility_s_own_flow_that_fails_sends_one_message_with_reason_and_link(session, told):
    _, uids = session
    wait_until(lambda: all(told.receiver.received(uid) for uid in uids), timeout_s=200)
    told.end(BLOCK, Failed(message="the last of all"))  # what was on its way before it has arrived
    failed, killed, well = (told.receiver.received(uid) for uid in uids)
    assert [len(failed), len(killed), len(well)] == [1, 1, 1]
    message = json.loads(failed[0])
    assert message["title"] == f"scan-1-count-{uids[0][:8]}: Failed"
    lines = message["message"].splitlines()
    assert lines[:4] == ["Scan id: 1", "Plan: count", f"Run: {uids[0]}", "Flow: tomo-recon"]
    assert lines[4].startswith("Reason: ")
    assert "no rotation axis in scan 1" in lines[4]
    assert lines[5].startswith(flow_run_url(told.stack.prefect_ui_url, "", failed=True))
    assert json.loads(killed[0])["title"] == f"scan-2-count-{uids[1][:8]}: Crashed"
    assert json.loads(well[0])["title"] == f"scan-3-count-{uids[2][:8]}: Completed"


def test_the_address_is_in_the_block_alone(session, told):
    folder, _ = session
    assert {path.name for path in folder.iterdir()} >= {"outbox.sqlite", "session.log"}
    assert found_in(folder, SECRET) == []
    # Prefect encrypts it in its own database.
    assert found_in(told.stack.state_directory, SECRET) == []


def test_only_the_ends_that_were_asked_for_are_told(told):
    well = told.end(BLOCK, Running(), Completed(), tell=False)
    crashed = told.end(BLOCK, Running(), Crashed(message="its worker was killed"))
    timed_out = told.end(BLOCK, Running(), Failed(name="TimedOut", message="took too long"))
    told.end(BLOCK, Running(), Completed(message="4 files"), notice="success")
    assert told.receiver.received(well) == []
    assert "its worker was killed" in told.receiver.received(crashed)[0]
    assert "took too long" in told.receiver.received(timed_out)[0]


def test_what_is_started_again_is_told_of_again_and_says_which_time_it_is(told):
    workflow = Workflow(DEPLOYMENT, notify=BLOCK)
    run = Run("00007999-again", {"scan_id": 7999, "plan_name": "count"}, {"run_start": "00007999-again"})
    with PrefectApi(30, client_retries=True) as api, get_client(sync_client=True) as client:
        for generation in range(2):
            flow_run = FlowRunStarter(api, None).start(run, workflow, generation)
            client.set_flow_run_state(UUID(flow_run.id), Crashed(message="again"), force=True)
            wait_until(lambda: len(told.receiver.received(run.uid)) == generation + 1)  # noqa: B023
    titles = [json.loads(message)["title"] for message in told.receiver.received(run.uid)]
    assert titles == ["scan-7999-count-00007999: Crashed", "scan-7999-count-00007999-again-1: Crashed"]


def test_what_a_flow_run_says_is_text_to_prefect_s_templates(told):
    name = told.end(BLOCK, Running(), Failed(message="{{ 6 * 7 }} {% raw %} <!channel>"))
    [message] = told.receiver.received(name)
    assert "{{ 6 * 7 }} {% raw %}" in message


MARKUP = "<!channel> <@U123> <http://evil.example|click> !here> @everyone [click](http://evil.example) ![x](http://e/x)"


def test_what_is_typed_into_a_run_mentions_nobody_and_shows_no_false_link(told):
    raw = CustomWebhookNotificationBlock(
        name="raw", url=f"http://{told.receiver.address}/raw", json_data={"text": "{{subject}} {{body}}"}
    )
    raw.save("raw")
    for block in (BLOCK, "custom/raw"):
        name = told.end(block, Running(), Failed(name="<!here>", message=MARKUP), plan_name=MARKUP)
        scan = name.partition("-<")[0]
        [message] = map(json.loads, told.receiver.received(f"{scan}-"))
        body = message.get("text") or f"{message['title']} {message['message']}"
        assert not re.search(r"[<>]|@\w|\]\(", body), body
        assert "Plan: \u2039!channel\u203a \u2039@\u200bU123\u203a" in body
        assert "[click]\u200b(http://evil.example)" in body
        # As Slack's own plugin would send it, which takes some of what was escaped for markup again.
        slack = NotifySlack(token_a="T" * 9, token_b="B" * 9, token_c="c" * 24)
        slack.webhook_url = f"http://{told.receiver.address}/slack"
        slack.notify(body=body, title=body[:200])
        sent = told.receiver.received(f"{scan}-", "/slack")[-1]
        assert "\u2039!channel\u203a" in json.loads(sent)["attachments"][0]["text"]
        assert not re.search(r"<[!@h]", sent)


@pytest.mark.parametrize("mode", ["down", "500", "hang"])
def test_a_message_that_cannot_be_sent_is_logged_and_delays_nothing(told, mode):
    with ExitStack() as resources:
        receiver = resources.enter_context(closing(Receiver()))
        receiver.mode = mode
        SlackWebhook(url=f"json://{receiver.address}/{SECRET}").save(f"slack-{mode}")
        CustomWebhookNotificationBlock(
            name="test", url=f"http://{receiver.address}/", json_data={"text": "{{subject}}"}, timeout=1
        ).save(f"custom-{mode}")
        if mode == "down":
            receiver.close()
        for block in (f"slack/slack-{mode}", f"custom/custom-{mode}"):
            before = len(told.log())
            name = told.end(block, Running(), Failed(message="told to nobody"), tell=False)
            told.end(BLOCK, Running(), Failed(message="told meanwhile"))
            if mode != "down":
                wait_until(lambda: receiver.received(name))  # noqa: B023 - called before the next turn
            wait_until(lambda: "Action failed" in told.log()[before:] or "consume_loop" in told.log()[before:])  # noqa: B023
    assert found_in(told.stack.state_directory, SECRET) == []


def test_a_missing_block_loses_no_flow_run_and_the_log_says_how_to_make_it(told, caplog):
    now = 0.0
    with get_client(sync_client=True) as client:
        notifications = Notifications(client, clock=lambda: now)
        notifications.prepare(["failure:slack/nobody"])
        name = told.end("slack/nobody", Running(), Failed(), tell=False)  # asserts that it is there
        [said, again] = caplog.messages
        assert said == again
        assert said.startswith(
            "No message about a failure goes to slack/nobody (flow runs are not affected): Prefect has no"
        )
        command = said.partition("or with: ")[2]
        told.shell(command, f"json://{told.receiver.address}/new")
        notifications.prepare(["failure:slack/nobody"])
        now = 61.0
        notifications.prepare(["failure:slack/nobody"])
        assert len(client.read_automations_by_name(f"bluesky-prefect {TAG}failure:slack/nobody")) == 1
    assert told.receiver.received(name) == []
    told.end("slack/nobody", Running(), Failed())


def test_a_block_that_sends_nothing_is_told_at_once(told, caplog):
    Secret(value="x").save("not-a-channel")
    told.end("secret/not-a-channel", Running(), Failed(), tell=False)
    assert "it is no notification block" in caplog.text


def test_sessions_that_start_at_the_same_time_send_one_message(told):
    SlackWebhook(url=f"json://{told.receiver.address}/many").save("many")
    with ExitStack() as resources:
        clients = [resources.enter_context(get_client(sync_client=True)) for _ in range(4)]
        barrier = threading.Barrier(len(clients))

        def start(client):
            barrier.wait()
            Notifications(client).prepare(["failure:slack/many"])

        threads = [threading.Thread(target=start, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Notifications(clients[0]).prepare(["failure:slack/many"])
        assert len(clients[0].read_automations_by_name(f"bluesky-prefect {TAG}failure:slack/many")) == 1
    name = told.end("slack/many", Running(), Failed())
    told.end(BLOCK, Running(), Failed())
    assert len(told.receiver.received(name)) == 1


def test_an_automation_that_was_turned_off_stays_off_and_is_kept_up_to_date(told):
    SlackWebhook(url=f"json://{told.receiver.address}/off").save("off")
    with get_client(sync_client=True) as client:
        Notifications(client).prepare(["failure:slack/off"])
        [made] = client.read_automations_by_name(f"bluesky-prefect {TAG}failure:slack/off")
        older = automation("failure:slack/off", made.actions[0].block_document_id)
        changes = {"enabled": False, "description": "of an older version"}
        client.update_automation(made.id, older.model_copy(update=changes))
        Notifications(client).prepare(["failure:slack/off"])
        [now] = client.read_automations_by_name(made.name)
        assert (now.id, now.enabled, now.description) == (made.id, False, made.description)
    name = told.end("slack/off", Running(), Failed(), tell=False)
    told.end(BLOCK, Running(), Failed())
    assert told.receiver.received(name) == []


@contextmanager
def acquisition(told, folder, address=""):
    """A session that starts nothing on runs that failed, and has people told of those."""
    environment = {
        "PREFECT_API_URL": address or told.stack.prefect_api_url,
        "PREFECT_API_AUTH_STRING": user_of(told.stack),
        "BLUESKY_PREFECT_WORKFLOWS": f"{__name__}:RUN_FAILURES",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    made = Acquisition(folder, environment)
    try:
        yield made
    finally:
        (folder / "session.log").write_text(made.end())


def test_people_are_told_once_of_a_run_that_was_aborted_and_why(told, tmp_path):
    with acquisition(told, tmp_path) as session:
        uid = session.run("abort the beam was dumped")
        [well] = session.count(1)
        [message] = map(json.loads, wait_until(lambda: told.receiver.received(uid)))
        wait_until(lambda: session.outbox_counts() == (0, 3, 0))
    told.end(BLOCK, Failed(message="the last of all"))  # what was on its way before it has arrived
    assert len(told.receiver.received(uid)) == 1
    assert told.receiver.received(well) == []
    assert message["title"] == f"scan-1-aborted_scan-{uid[:8]}: run aborted"
    lines = message["message"].splitlines()
    assert lines[:5] == [
        "Scan id: 1",
        "Plan: aborted_scan",
        f"Run: {uid}",
        "Exit status: aborted",
        "Reason: the beam was dumped",
    ]
    assert lines[5].startswith("Stopped: 20")
    assert found_in(tmp_path, SECRET) == []


@pytest.mark.parametrize("mode", ["refuse", "500"])
def test_people_are_told_of_a_failed_run_after_an_outage_of_prefect(told, tmp_path, mode):
    with closing(FaultProxy(urlsplit(told.stack.prefect_api_url).port)) as proxy:
        proxy.mode = mode
        with acquisition(told, tmp_path, f"{proxy.url}/api") as session:
            uid = session.run("abort while Prefect is away")
            if mode != "refuse":
                wait_until(lambda: proxy.struck)
            assert session.outbox_counts() == (1, 0, 0)
            proxy.mode = "pass"
            wait_until(lambda: told.receiver.received(uid))
            wait_until(lambda: session.outbox_counts() == (0, 1, 0))
    assert len(told.receiver.received(uid)) == 1


def failed_run(block, **stop):
    uid = str(uuid4())
    run = Run(uid, {"scan_id": 6, "plan_name": "count"}, {"exit_status": "fail", "time": time.time(), **stop})
    return Submission.message(run, f"run-failure:{block}")


def tell(told, submission):
    """Have people told as the courier does, which asks again where Prefect needs a moment."""

    def is_told():
        with PrefectApi(30, client_retries=True) as api, suppress(PrefectUnavailable):
            api.tell(submission)
            return True

    wait_until(is_told)
    wait_until(lambda: told.receiver.received(submission.run_uid))


def test_a_run_of_which_two_outboxes_know_is_told_of_once(told):
    message = failed_run(BLOCK)
    for _ in range(2):
        tell(told, message)
    again = run_failure_event(message, TAG + message.deployment).model_copy(update={"id": uuid4()})
    with get_client(sync_client=True) as client:  # as a server tells it that was started anew meanwhile
        client.request("POST", "/events", json=[again.model_dump(mode="json")])
    tell(told, failed_run(BLOCK))
    assert len(told.receiver.received(message.run_uid)) == 1


def test_the_reason_of_a_failed_run_is_text_that_mentions_nobody(told):
    message = failed_run(BLOCK, reason=f"{{{{ 6 * 7 }}}} {MARKUP}", time=1e300)
    tell(told, message)
    [text] = told.receiver.received(message.run_uid)
    body = json.loads(text)["message"]
    assert "{{ 6 * 7 }} \u2039!channel\u203a" in body
    assert not re.search(r"[<>]|@\w|\]\(", body), body


def test_a_failed_run_is_told_of_once_somebody_has_made_the_block(told):
    message = failed_run("slack/later")
    with pytest.raises(DeploymentMissing, match="Prefect has no notification block 'slack/later'"):
        tell(told, message)
    SlackWebhook(url=f"json://{told.receiver.address}/later").save("later")
    tell(told, message)
    assert len(told.receiver.received(message.run_uid, "/later")) == 1


def test_each_command_of_the_how_to_does_what_it_says(told):
    page = PAGE.read_text().replace("mon-beamline", "shift")  # the other one is in use
    make, attempt, pause = re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    told.shell(make, f"json://{told.receiver.address}/how-to")
    told.shell(attempt)
    assert len(told.receiver.received("Hello from the beamline", "/how-to")) == 1
    name = told.end("slack/shift", Running(), Failed())
    assert len(told.receiver.received(name, "/how-to")) == 1
    told.shell(pause)
    with get_client(sync_client=True) as client:
        [paused] = client.read_automations_by_name(f"bluesky-prefect {TAG}failure:slack/shift")
    assert not paused.enabled


def test_the_how_to_s_workflows_are_some():
    notices = []
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        names = {}
        exec(snippet, names)
        notices.append([(len(one.notices), len(one.run_notices)) for one in names["workflows"]])
    assert notices == [[(1, 0), (4, 0)], [(1, 1)]]
