"""The outbox on the command line: what waits, what is dead, why, and what to do about it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bluesky_prefect import Outbox
from bluesky_prefect.cli._app import app
from bluesky_prefect.core import Run, Submission, submission_key
from bluesky_prefect.outbox import Draft, OutboxCounts

FIRST, SECOND, THIRD = ("4f3a2b1c-1111", "4f3a2b1c-2222", "9c0ffee0-3333")
WORKFLOW = "my-workflow/local"


def submission(uid: str, scan_id: int = 1, *, workflow: str = WORKFLOW, undecided: bool = False, **start) -> Submission:
    start = {"uid": uid, "scan_id": scan_id, "plan_name": "count", **start}
    key = submission_key(uid, workflow)
    return Submission(key, workflow, workflow, uid, start, {"run_start": uid}, undecided=undecided)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def outbox(state: Path):
    box = Outbox(state / "outbox.sqlite")
    yield box
    box.close()


@pytest.fixture
def outbox_command(state: Path) -> Callable[..., Result]:
    """Run ``bluesky-prefect outbox`` on the state directory of the test."""

    def run(command: str, *arguments: str, typed: str = "") -> Result:
        options = ["outbox", command, "--state-directory", str(state), *arguments]
        return CliRunner(env={"COLUMNS": "160"}).invoke(app, options, input=typed)

    return run


def error_of(result: Result) -> str:
    """Return the message of the error that the command ended with."""
    assert result.exit_code == 1
    return str(result.exception)


def row_of(result: Result, uid: str) -> str:
    [row] = [line for line in result.stdout.splitlines() if uid[:8] in line]
    return row


@pytest.mark.parametrize("command", ["list", "show", "retry", "discard", "move"])
def test_help_is_there_for_every_command(outbox_command, command):
    result = outbox_command(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("--json",)], ids=["for people", "for programs"])
def test_without_an_outbox_the_list_says_so_and_makes_none(outbox_command, state, arguments):
    result = outbox_command("list", *arguments)
    assert result.exit_code == 0
    assert str(state / "outbox.sqlite") in result.stdout
    assert not state.exists()


@pytest.mark.parametrize("command", [("show", "1"), ("retry", "1"), ("retry", "--all-dead"), ("discard", "1")])
def test_without_an_outbox_the_other_commands_are_an_error_that_says_so(outbox_command, state, command):
    assert "There is no outbox at" in error_of(outbox_command(*command))
    assert not state.exists()


def test_the_list_shows_what_waits_and_what_is_dead_with_the_reason(outbox_command, outbox):
    outbox.put(submission(FIRST, 11))
    outbox.mark_sent(outbox.take().key, "id", "scan-11-count")
    outbox.put(submission(SECOND, 12, plan_name="scan"), dead="tomo/gpu requires sample, which nothing fills")
    outbox.put(submission(THIRD, 13))
    outbox.give_back(outbox.take().key, "Prefect cannot be reached", 3000)
    result = outbox_command("list")
    assert result.exit_code == 0
    for word in ("12", "scan", WORKFLOW, "dead", "requires sample"):
        assert word in row_of(result, SECOND)
    for word in ("13", "count", WORKFLOW, "waiting, next try in 50 min", " 1 ", "cannot be reached"):
        assert word in row_of(result, THIRD)
    assert FIRST not in result.stdout
    assert result.stdout.index(THIRD[:8]) < result.stdout.index(SECOND[:8])
    assert "1 waiting, 1 sent, 1 dead" in result.stdout


@pytest.mark.parametrize(
    ("state_option", "expected"),
    [("waiting", {THIRD}), ("dead", {SECOND}), ("sent", {FIRST}), ("all", {FIRST, SECOND, THIRD})],
)
def test_the_list_can_be_of_one_state_or_of_all(outbox_command, outbox, state_option, expected):
    outbox.put(submission(FIRST))
    outbox.mark_sent(outbox.take().key, "id", "name")
    outbox.put(submission(SECOND), dead="why")
    outbox.put(submission(THIRD))
    listed = json.loads(outbox_command("list", "--json", "--state", state_option).stdout)
    assert {entry["run_uid"] for entry in listed["entries"]} == expected
    assert listed["counts"] == {"waiting": 1, "sent": 1, "dead": 1, "declined": 0}


def test_a_limit_lists_the_newest_and_says_that_there_are_more(outbox_command, outbox):
    for uid in (FIRST, SECOND, THIRD):
        outbox.put(submission(uid), dead=None if uid == SECOND else "why")
    result = outbox_command("list", "--limit", "2")
    assert "These are the newest 2; --limit lists more." in result.stdout
    assert THIRD[:8] in result.stdout
    assert len([line for line in result.stdout.splitlines() if WORKFLOW in line]) == 2


def test_what_somebody_typed_neither_breaks_the_table_nor_forges_a_line(outbox_command, outbox):
    typed = "x\n1 waiting, 0 sent, 0 dead\x1b[2J\u202e[/red][bold]"
    outbox.put(submission(typed, 1, workflow=typed, plan_name=typed), dead=typed)
    for command in (["list"], ["show", "1"]):
        result = outbox_command(*command)
        assert result.exit_code == 0, result.exception
        assert "1 waiting, 0 sent, 0 dead" not in [line[:25] for line in result.stdout.splitlines()]
        assert not {"\x1b", "\u202e"} & set(result.stdout)
        assert "[/red]" in result.stdout


def test_a_long_reason_takes_one_line_of_the_list_and_is_shown_in_full(outbox_command, outbox):
    reason = "Prefect refuses to start it: " + "because " * 50
    outbox.put(submission(FIRST, 12), dead=reason)
    [row] = [line for line in outbox_command("list").stdout.splitlines() if "because" in line]
    assert row.split()[:5] == ["12", "count", FIRST[:8], WORKFLOW, "dead"]
    assert "Prefect refuses to start it: because because" in row
    assert reason.strip() in outbox_command("show", "12").stdout


def test_the_list_and_show_tell_who_is_sending_an_entry(outbox_command, outbox):
    outbox.put(submission(FIRST))
    outbox.take()
    holder = json.loads(outbox_command("show", FIRST, "--json").stdout)["held_by"]
    assert f"being sent by process {holder}" in row_of(outbox_command("list"), FIRST)
    assert f"Nothing has to be done: process {holder} is sending it now." in outbox_command("show", FIRST).stdout


def test_show_tells_a_dead_letters_reason_and_mend_with_commands_that_work(outbox_command, outbox, state):
    outbox.put(submission(FIRST, 12), dead="tomo/gpu requires sample, which nothing fills")
    shown = outbox_command("show", "12").stdout
    assert "tomo/gpu requires sample, which nothing fills" in shown
    command = f"bluesky-prefect outbox retry --state-directory {state} {FIRST}:{WORKFLOW}"
    assert command in shown
    assert outbox_command("retry", command.split()[-1]).exit_code == 0
    assert outbox.counts() == OutboxCounts(waiting=1)


def test_show_offers_no_command_that_starts_a_workflow_for_a_message(outbox_command, outbox):
    notice = "run-failure:slack/mon-beamline"
    outbox.put(submission(FIRST, 12, workflow=notice), dead="Prefect refuses a message (404)")
    shown = outbox_command("show", "12").stdout
    assert "Prefect refuses a message (404)" in shown
    assert "bluesky-prefect outbox discard" in shown
    assert "bluesky-prefect submit" not in shown
    assert outbox_command("retry", f"{FIRST}:{notice}").exit_code == 0
    outbox.mark_sent(outbox.take().key)
    assert "Nothing has to be done: Prefect has it." in outbox_command("show", "12").stdout
    assert "bluesky-prefect submit" not in outbox_command("show", "12").stdout


def test_show_has_the_documents_for_programs(outbox_command, outbox):
    outbox.put(submission(FIRST, 12))
    shown = json.loads(outbox_command("show", "12", "--json").stdout)
    assert shown["submission"]["start"] == {"uid": FIRST, "scan_id": 12, "plan_name": "count"}
    assert shown["submission"]["stop"] == {"run_start": FIRST}
    assert shown["remedy"].startswith("Nothing has to be done")


@pytest.mark.parametrize("name", [f"{FIRST}:{WORKFLOW}", FIRST, FIRST[:10], "12"])
def test_an_entry_is_named_by_key_uid_beginning_of_uid_or_scan_id(outbox_command, outbox, name):
    outbox.put(submission(FIRST, 12))
    outbox.put(submission(SECOND, 13))
    assert f"Key           {FIRST}:{WORKFLOW}" in outbox_command("show", name).stdout


def test_a_name_of_several_is_an_error_that_lists_them(outbox_command, outbox):
    outbox.put(submission(FIRST, 12))
    outbox.put(submission(SECOND, 13))
    error = error_of(outbox_command("retry", "4f3a2b1c"))
    assert f"  {FIRST}:{WORKFLOW} (scan 12), waiting, put in 20" in error
    assert f"  {SECOND}:{WORKFLOW} (scan 13), waiting, put in 20" in error


@pytest.mark.parametrize("name", ["4f3a", "99", "nobody-knows", "4f3a2b1c%", "a\nb", "\udc80", "9" * 5000])
def test_a_name_of_nothing_is_an_error_that_says_how_to_name_one(outbox_command, outbox, name):
    outbox.put(submission(FIRST, 12))
    error = error_of(outbox_command("show", name))
    assert "the first 5 or more characters" in error
    assert len(error.splitlines()) == 1


def test_retry_makes_due_what_is_dead_or_waits_for_its_next_attempt(outbox_command, outbox):
    outbox.put(submission(FIRST, 12), dead="why")
    outbox.put(submission(SECOND, 13))
    outbox.give_back(outbox.take().key, "outage", 3000)
    result = outbox_command("retry", "12", "13")
    assert result.exit_code == 0
    assert f"Due now: {FIRST}:{WORKFLOW} (scan 12)" in result.stdout
    assert [outbox.take().run_uid, outbox.counts().waiting] == [FIRST, 2]


def test_retry_all_dead_sends_every_dead_letter_but_the_undecided(outbox_command, outbox):
    outbox.put(submission(FIRST, 12), dead="why")
    outbox.put(submission(SECOND, 13, undecided=True), dead="parameters= of workflow failed")
    outbox.put(submission(THIRD, 14), dead="why")
    result = outbox_command("retry", "--all-dead")
    assert result.exit_code == 1
    assert f"Left as it is: {SECOND}:{WORKFLOW} (scan 13)" in result.stderr
    assert outbox.counts() == OutboxCounts(waiting=2, dead=1)


def test_an_undecided_dead_letter_is_not_retried_and_the_remedy_is_told(outbox_command, outbox, state):
    outbox.put(submission(FIRST, 12, undecided=True), dead="parameters= of workflow failed")
    result = outbox_command("retry", "12")
    assert result.exit_code == 1
    submit = f"bluesky-prefect submit --state-directory {state} --workflow {WORKFLOW} {FIRST}"
    remedy = f"Fix the workflow's when= or parameters=, then:  {submit}"
    assert remedy in result.stderr
    assert outbox.counts() == OutboxCounts(dead=1)


def test_what_was_sent_is_not_sent_again_and_the_way_to_do_so_is_told(outbox_command, outbox):
    outbox.put(submission(FIRST, 12))
    outbox.mark_sent(outbox.take().key, "id", "name")
    for command in (["retry", "12"], ["discard", "12", "--yes"]):
        assert "submit --workflow NAME --again UID" in error_of(outbox_command(*command))
    assert outbox.counts() == OutboxCounts(sent=1)


def test_of_a_run_with_several_workflows_a_retry_means_the_one_that_is_not_sent(outbox_command, outbox):
    outbox.put(submission(FIRST, 12))
    outbox.mark_sent(outbox.take().key, "id", "name")
    outbox.put(submission(FIRST, 12, workflow="tomo/gpu"), dead="why")
    assert outbox_command("retry", "12").exit_code == 0
    assert outbox.counts() == OutboxCounts(waiting=1, sent=1)


@pytest.mark.parametrize("arguments", [(), ("1", "--all-dead")], ids=["neither", "both"])
def test_retry_wants_names_or_all_dead(outbox_command, outbox, arguments):
    outbox.put(submission(FIRST), dead="why")
    assert outbox_command("retry", *arguments).exit_code == 2
    assert outbox.counts() == OutboxCounts(dead=1)


@pytest.mark.parametrize(("typed", "left"), [("y\n", 0), ("n\n", 1), ("", 1)], ids=["yes", "no", "nobody there"])
def test_discard_asks_first_and_shows_what_it_would_delete(outbox_command, outbox, typed, left):
    outbox.put(submission(FIRST, 12), dead="why")
    result = outbox_command("discard", "12", typed=typed)
    assert f"{FIRST}:{WORKFLOW} (scan 12), dead" in result.stderr
    assert result.exit_code == left
    assert outbox.counts() == OutboxCounts(dead=left)


def test_discard_says_where_the_run_is_found_from_now_on(outbox_command, outbox):
    outbox.put(submission(FIRST, 12), dead="why")
    result = outbox_command("discard", "12", "12", FIRST, "--yes")
    assert result.exit_code == 0
    assert result.stdout == f"Discarded: {FIRST}:{WORKFLOW} (scan 12)\n"
    assert (
        "As long as their workflow is on the list of workflows, 'bluesky-prefect reconcile' shows these"
        in result.stderr
    )


def test_nothing_is_done_if_one_of_several_names_is_wrong(outbox_command, outbox):
    outbox.put(submission(FIRST, 12), dead="why")
    for command in (["retry", "12", "nonsense"], ["discard", "--yes", "12", "nonsense"]):
        assert "nonsense" in error_of(outbox_command(*command))
    assert outbox.counts() == OutboxCounts(dead=1)


def test_what_is_being_sent_is_not_discarded(outbox_command, outbox):
    outbox.put(submission(FIRST, 12))
    outbox.take()
    assert "it is being sent at this moment" in error_of(outbox_command("discard", "12", "--yes"))
    assert outbox.counts() == OutboxCounts(waiting=1)


def test_an_entry_that_this_version_cannot_read_is_listed_and_shown(outbox_command, outbox, state):
    with outbox._durable.change("") as connection:
        connection.execute(
            "INSERT INTO entries (key, run_uid, deployment, submission, state, created, changed) "
            """VALUES ('k', 'u-12345', 'a/b', '{"from": "the future"}', 'dead', 1, 1)"""
        )
    assert "a/b" in row_of(outbox_command("list"), "u-12345")
    assert "This version cannot read it." in outbox_command("show", "u-12345").stdout
    assert json.loads(outbox_command("show", "k", "--json").stdout)["submission"] is None
    assert outbox_command("retry", "k").exit_code == 1


A, B = "http://127.0.0.1:4200/api", "http://b.example/api"


@pytest.fixture
def set_to_a(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", A)


def test_the_list_and_show_tell_the_address_where_it_is_not_this_shell_s(outbox_command, outbox, set_to_a):
    outbox.put(submission(FIRST, 11), api_url=A)
    assert "Prefect" not in outbox_command("list").stdout
    outbox.put(submission(THIRD, 12), api_url=B)
    listed = outbox_command("list")
    assert B in row_of(listed, THIRD)[:150]
    assert A not in row_of(listed, FIRST)
    assert f"--to {A}" in listed.stdout
    shown = outbox_command("show", "12").stdout
    assert f"Prefect       {B}" in shown
    assert f"--to {A}" in shown
    assert A not in outbox_command("show", "11").stdout
    assert json.loads(outbox_command("show", "12", "--json").stdout)["api_url"] == B


def test_a_backlog_is_moved_by_one_command_that_says_what_it_will_do(outbox_command, outbox, set_to_a):
    outbox.put(submission(FIRST, 11), api_url=B)
    outbox.put(submission(SECOND, 12), api_url=B)
    outbox.put(submission(THIRD, 13), api_url="http://c.example/api")
    asked = outbox_command("move", "--to", "http://localhost:4200/api/", "--from", B, typed="n\n")
    assert asked.exit_code == 1
    assert f"To be sent to {A} from now on:\n  2 for {B}" in asked.stderr
    assert outbox.unsent_by_address() == {B: 2, "http://c.example/api": 1}
    done = outbox_command("move", "--to", "http://localhost:4200/api/", "--from", B, "--yes")
    assert done.stdout == f"Moved: 2 submissions, now for {A}\n"
    assert outbox.take(A).run_uid == FIRST
    assert outbox_command("move", "--to", A, typed="y\n").exit_code == 0
    assert outbox.unsent_by_address() == {A: 3}


def test_moving_nothing_is_an_error_that_says_what_there_is(outbox_command, outbox):
    outbox.put(submission(FIRST), api_url=B)
    outbox.put(submission(SECOND))
    error = error_of(outbox_command("move", "--to", B, "--yes"))
    assert "1 for any address" in error
    assert f"1 for {B}" in error


@pytest.mark.parametrize("address", ["b.example", "http://user:s3/cret@b.example/api"])
def test_what_is_no_address_is_refused_and_not_repeated(outbox_command, outbox, address):
    error = error_of(outbox_command("move", "--to", address, "--yes"))
    assert "Write http://host:4200/api" in error
    assert "cret" not in error


def test_refusals_are_listed_on_demand_and_shown_with_what_can_be_done(outbox_command, outbox, state):
    outbox.put_all([Draft(submission(FIRST, 12), "declined", "when= refused the run")])
    listed = outbox_command("list")
    assert FIRST[:8] not in listed.stdout
    assert "0 waiting, 0 sent, 0 dead, 1 declined" in listed.stdout
    assert "when= refused the run" in row_of(outbox_command("list", "--state", "declined"), FIRST)
    shown = outbox_command("show", "12").stdout
    assert f"bluesky-prefect submit --state-directory {state} --regardless --workflow {WORKFLOW} {FIRST}" in shown
    for command in (["retry", "12"], ["discard", "12", "--yes"]):
        error = error_of(outbox_command(*command))
        assert "when= refused the run '12'" in error
        assert "bluesky-prefect submit --workflow NAME --regardless UID" in error
    assert outbox.counts() == OutboxCounts(declined=1)


def test_a_refusal_beside_a_dead_letter_of_the_same_run_is_in_nobody_s_way(outbox_command, outbox):
    refused = submission(FIRST, 12, workflow="tomo/gpu")
    outbox.put_all([Draft(submission(FIRST, 12), "dead", "why"), Draft(refused, "declined")])
    assert outbox_command("retry", "12").exit_code == 0
    assert outbox.counts() == OutboxCounts(waiting=1, declined=1)


def test_what_a_newer_version_has_to_send_is_shown_as_that(outbox_command, outbox):
    outbox.put(submission(FIRST, 12))
    with outbox._durable.change("") as connection:
        connection.execute("""UPDATE entries SET submission = '{"from": "the future"}'""")
    assert outbox.take() is None
    assert "a session of a newer one sends it" in outbox_command("show", FIRST).stdout


def test_of_messages_nothing_is_said_that_holds_for_flow_runs_only(outbox_command, outbox):
    for uid, scan_id in ((FIRST, 7), (SECOND, 8)):
        start = {"uid": uid, "scan_id": scan_id}
        outbox.put(Submission.message(Run(uid, start, {"exit_status": "fail"}), "run-failure:slack/mon"))
    outbox.mark_sent(outbox.take().key)
    sent = error_of(outbox_command("discard", "7", "--yes"))
    assert "has been sent: Prefect has it." in sent
    assert "submit" not in sent
    discarded = outbox_command("discard", "8", "--yes")
    assert "Discarded" in discarded.stdout
    assert discarded.stderr == ""
