"""The work queue that a flow run is created for, from a real HTTP server that has such queues, or has not."""

import logging
from contextlib import closing
from dataclasses import replace

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from bluesky_prefect.core import PrefectUnavailable, Submission
from bluesky_prefect.prefect_api import PrefectApi
from tests.services.prefect_stand_in import PrefectStandIn

SUBMISSION = Submission("k", "w", "flow/one", "0123456789")
BOTH = ["live", "backlog"]


@pytest.fixture
def stand_in():
    """A Prefect whose deployments are on a work pool."""
    with closing(PrefectStandIn().start()) as stand_in, temporary_settings({PREFECT_API_URL: stand_in.url}):
        stand_in.placed = {"work_pool_name": "pool", "work_queue_name": "default"}
        stand_in.queues = BOTH
        yield stand_in


def chosen(stand_in, *, live=True):
    with PrefectApi(5) as api:
        api.create_flow_run(SUBMISSION, live=live)
    return stand_in.chosen[SUBMISSION.key]


@pytest.mark.parametrize(("live", "queue"), [(True, "live"), (False, "backlog")])
def test_a_live_flow_run_and_all_others_have_a_queue_each(stand_in, live, queue):
    assert chosen(stand_in, live=live) == queue


@pytest.mark.parametrize("queues", [[], ["live"], ["backlog"], 401, 403, 404, 422, 500])
def test_without_both_queues_a_flow_run_goes_where_its_deployment_says(stand_in, queues):
    stand_in.queues = queues
    assert chosen(stand_in) is None


@pytest.mark.parametrize(
    "placed", [{}, {"work_pool_name": "pool", "work_queue_name": "night-shift"}], ids=["served", "on a queue"]
)
def test_a_queue_that_somebody_chose_for_a_deployment_is_respected(stand_in, placed):
    stand_in.placed = placed
    assert chosen(stand_in) is None


def test_an_outage_while_queues_are_looked_up_is_one(stand_in):
    stand_in.queues = 503
    with pytest.raises(PrefectUnavailable, match="503"):
        chosen(stand_in)
    assert stand_in.created == {}


def test_a_pool_without_queues_is_one_line_in_the_log(stand_in, caplog):
    stand_in.queues = ["default"]
    with caplog.at_level(logging.INFO, "bluesky_prefect"), PrefectApi(5) as api:
        for key in "abc":
            api.create_flow_run(replace(SUBMISSION, key=key), live=True)
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("bluesky_prefect")]
    assert "Work pool pool has no queue backlog and live" in line
    assert "bluesky-prefect deploy" in line
