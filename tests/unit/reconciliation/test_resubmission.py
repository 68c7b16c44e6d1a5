"""Which workflows a person means who names some, and which runs are left alone."""

from types import SimpleNamespace

import pytest

from bluesky_prefect import Workflow
from bluesky_prefect.core import ConfigurationError, Run
from bluesky_prefect.reconciliation._resubmission import ResubmissionRequest, choose_workflows, resubmit

RECON = Workflow("tomo-recon/gpu", name="recon", was="reconstruction", when=lambda run: False)
LISTED = [RECON, Workflow("my-workflow/local")]


@pytest.mark.parametrize("name", ["recon", "reconstruction", "tomo-recon/gpu"])
def test_a_former_name_and_a_deployment_mean_the_workflow_on_the_list(name):
    assert choose_workflows(LISTED, [name]) == [RECON]


def test_a_workflow_that_is_named_twice_is_started_once():
    assert choose_workflows(LISTED, ["recon", "tomo-recon/gpu"]) == [RECON]


def test_a_deployment_that_is_not_on_the_list_is_a_workflow_of_its_own():
    assert choose_workflows(LISTED, ["other/gpu"]) == [Workflow("other/gpu")]


def test_a_deployment_of_several_workflows_is_refused_with_their_names():
    several = [*LISTED, Workflow("tomo-recon/gpu", name="preview")]
    with pytest.raises(ConfigurationError, match="name one of recon, preview"):
        choose_workflows(several, ["tomo-recon/gpu"])


@pytest.mark.parametrize(
    ("options", "started", "said"),
    [
        ({"remembered_since": 2000.0}, False, "may be deleted"),
        ({"remembered_since": 2000.0, "again": True}, True, "would be started"),
        ({"remembered_since": 500.0}, True, "would be started"),
        ({}, True, "would be started"),
    ],
)
def test_a_run_older_than_prefect_s_memory_is_left_alone_unless_it_is_to_be_done_again(options, started, said):
    stopped = Run("one", {"uid": "one"}, {"run_start": "one", "time": 1000.0})
    api = SimpleNamespace(client=SimpleNamespace(read_flow_runs=lambda **asked: []))
    request = ResubmissionRequest(dry_run=True, **options)
    [outcome] = resubmit([stopped], [Workflow("my-workflow/local")], request, api=api, starter=None)
    assert outcome.started == started
    assert said in outcome.text
