"""Which workflows a person means who names some."""

import pytest

from bluesky_prefect import Workflow
from bluesky_prefect.core import ConfigurationError
from bluesky_prefect.reconciliation._resubmission import choose_workflows

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
