"""A workflow that cannot work says so when it is made."""

from datetime import date, datetime

import pytest

from bluesky_prefect import Run, Settings, Workflow, succeeded
from bluesky_prefect.core import ConfigurationError, as_workflows, load_workflows


@pytest.mark.parametrize("name", ["", "my-workflow", "/local", "my-workflow/", "a/b/c", None, 3])
def test_a_name_that_is_not_of_a_deployment_is_refused_with_the_right_form(name):
    with pytest.raises(ConfigurationError, match="flow-name/deployment-name"):
        Workflow(name)


def test_when_that_is_not_callable_is_refused():
    with pytest.raises(ConfigurationError, match="when="):
        Workflow("a/b", when=True)  # type: ignore[arg-type]  # the mistake under test


def test_parameters_that_are_no_mapping_are_refused():
    with pytest.raises(ConfigurationError, match="parameters="):
        Workflow("a/b", parameters=["x"])  # type: ignore[arg-type]  # the mistake under test


def test_people_are_told_of_failures_unless_something_else_is_asked_for():
    assert Workflow("a/b").notices == ()
    assert Workflow("a/b", notify="slack/mon-beamline").notices == ("failure:slack/mon-beamline",)
    both = Workflow("a/b", notify=["slack/mon-beamline", "email/shift"], notify_on=["success", "failure"])
    assert both.notices == (
        "success:slack/mon-beamline",
        "failure:slack/mon-beamline",
        "success:email/shift",
        "failure:email/shift",
    )
    assert Workflow("a/b", notify=["x/y"], notify_on="success").notices == ("success:x/y",)


def test_people_are_told_of_failed_runs_apart_from_flow_runs():
    only = Workflow("a/b", notify="slack/mon-beamline", notify_on="run-failure")
    assert (only.notices, only.run_notices) == ((), ("run-failure:slack/mon-beamline",))
    both = Workflow("a/b", notify=["x/y", "x/z"], notify_on=["run-failure", "failure"])
    assert both.notices == ("failure:x/y", "failure:x/z")
    assert both.run_notices == ("run-failure:x/y", "run-failure:x/z")


@pytest.mark.parametrize("notify", ["mon-beamline", "slack/", "a/b/c", "Slack/Mon", 3, ["slack/mon", None], ""])
def test_what_cannot_be_a_notification_block_is_refused(notify):
    with pytest.raises(ConfigurationError, match="notify= of a/b"):
        Workflow("a/b", notify=notify)


@pytest.mark.parametrize("notify_on", ["crash", (), 3, ["failure", "never"]])
def test_an_end_that_is_none_is_refused(notify_on):
    with pytest.raises(ConfigurationError, match="notify_on="):
        Workflow("a/b", notify="slack/mon", notify_on=notify_on)


def test_an_address_given_by_mistake_is_not_repeated_in_the_error():
    with pytest.raises(ConfigurationError, match="Addresses belong into the block") as refused:
        Workflow("a/b", notify="https://hooks.slack.com/services/T0/B0/s3cret")
    assert "s3cret" not in str(refused.value)


def test_two_workflows_of_one_name_are_refused_unless_told_apart():
    with pytest.raises(ConfigurationError, match="name="):
        as_workflows(["a/b", Workflow("a/b", parameters={"x": 1})])
    assert len(as_workflows(["a/b", Workflow("a/b", parameters={"x": 1}, name="with x")])) == 2


def test_no_workflow_at_all_is_refused():
    with pytest.raises(ConfigurationError, match="No workflow"):
        as_workflows([])


@pytest.mark.parametrize(("exit_status", "accepted"), [("success", True), ("abort", False), ("fail", False)])
def test_succeeded_accepts_only_success(exit_status, accepted):
    assert succeeded(Run("u", {}, {"exit_status": exit_status})) is accepted


def test_a_run_knows_only_what_its_documents_say():
    run = Run("u", {"scan_id": "seven", "plan_name": 3}, {})
    assert (run.scan_id, run.plan_name, run.exit_status) == (None, None, None)


def test_the_list_of_workflows_is_found_where_the_setting_says(tmp_path, monkeypatch):
    (tmp_path / "hutch_workflows.py").write_text("workflows = ['a/b', 'tomo/gpu']\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [one.deployment for one in load_workflows("hutch_workflows:workflows")] == ["a/b", "tomo/gpu"]
    assert Settings().workflows is None


@pytest.mark.parametrize(
    "where", ["no_such_module:workflows", "bluesky_prefect.core._workflow:nothing", "nothing", "json:"]
)
def test_a_list_of_workflows_that_cannot_be_found_names_the_setting(where):
    with pytest.raises(ConfigurationError, match="BLUESKY_PREFECT_WORKFLOWS"):
        load_workflows(where)


@pytest.mark.parametrize("since", ["2026-01-31", "2026-01-31T00:00", date(2026, 1, 31), datetime(2026, 1, 31)])
def test_since_is_a_date_or_a_time(since):
    assert Workflow("a/b", since=since).since_s == datetime(2026, 1, 31).timestamp()
    assert Workflow("a/b").since_s is None


@pytest.mark.parametrize("since", ["24h", "yesterday", 5, "0001-01-01", ""])
def test_a_since_that_is_no_date_is_refused_with_the_way_to_write_it(since):
    with pytest.raises(ConfigurationError, match="'2026-01-31'"):
        Workflow("a/b", since=since)
