"""Which versions and whose results ``submit --made-by`` means."""

import pytest

from bluesky_prefect import tiled_api
from bluesky_prefect.cli._made_by import _is_one_of, runs_made_by
from bluesky_prefect.core import FlowInputError, Run, Workflow
from bluesky_prefect.tiled_api import parse_versions
from bluesky_prefect.tiled_api._results_by_version import ResultsOfVersions

KNOWN = ["0.1.0", "0.1.0+dirty", "0.2.dev3", "0.2rc1", "0.2", "0.3rc1", "unknown"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<0.2", KNOWN[:4]),
        ("<0.2rc1", KNOWN[:3]),
        ("<=0.2", KNOWN[:5]),
        ("==0.1.0", KNOWN[:2]),
        (">=0.2rc1,<0.3", KNOWN[3:6]),
    ],
)
def test_versions_before_another_are_meant_in_order_pre_releases_too(text, expected):
    meant = parse_versions(text)
    assert [version for version in KNOWN if _is_one_of(version, meant)] == expected


@pytest.mark.parametrize("text", ["", " ", ",", "0.1", "<", "old"])
def test_text_that_means_no_versions_is_refused(text):
    with pytest.raises(FlowInputError, match="does not say which versions are meant"):
        parse_versions(text)


def test_what_a_workflow_made_under_a_former_deployment_is_found(monkeypatch):
    asked = []

    def made(catalog, versions, deployments):
        asked.append((versions, list(deployments)))
        return ResultsOfVersions({"0.1.0": 1}, [Run("u", {})])

    monkeypatch.setattr(tiled_api, "versions_of_results", lambda catalog: {"0.1.0": 12})
    monkeypatch.setattr(tiled_api, "results_made_by", made)
    workflow = Workflow("my-workflow/srx", was=["my-workflow/local", "a name of its own"])
    [(runs, workflows)] = runs_made_by(None, "<0.2", [workflow], None)
    assert ([run.uid for run in runs], workflows) == (["u"], [workflow])
    assert asked == [(["0.1.0"], ["my-workflow/srx", "my-workflow/local"])]
