"""The time since which Prefect has all flow runs, by what its server and the settings say."""

import math
from types import SimpleNamespace

import httpx
import pytest

from bluesky_prefect import Settings
from bluesky_prefect.core import PrefectUnavailable
from bluesky_prefect.reconciliation._memory import remembered_since

NOW = 1e9
DAY_S = 86400.0


class ToldPrefect:
    """Answers with these settings, or this status."""

    def __init__(self, answer):
        self.client = SimpleNamespace(request=self._request)
        self._answer = answer

    def _request(self, method, path):
        asked = httpx.Request(method, f"http://here{path}")
        if isinstance(self._answer, int):
            raise httpx.HTTPStatusError("refused", request=asked, response=httpx.Response(self._answer, request=asked))
        return httpx.Response(200, json=self._answer, request=asked)


def vacuum(enabled, period="P90D"):
    return {"server": {"services": {"db_vacuum": {"enabled": enabled, "retention_period": period}}}}


def days_back(answer, **settings):
    return (NOW - remembered_since(ToldPrefect(answer), Settings(**settings), NOW, pytest.fail)) / DAY_S


@pytest.mark.parametrize("enabled", [["events", "flow_runs"], ["flow_runs"], True])
def test_it_goes_back_as_long_as_flow_runs_are_kept_less_what_clocks_may_be_apart(enabled):
    assert days_back(vacuum(enabled)) == pytest.approx(89.0)
    assert days_back(vacuum(enabled, "PT2H")) == pytest.approx(0.9 * 2 / 24)
    assert days_back(vacuum(enabled, 172800.0)) == pytest.approx(1.8)


@pytest.mark.parametrize(
    "answer", [vacuum(["events"]), vacuum([]), vacuum(False), vacuum(None), {"server": {}}, {}, [], 403, 404, 405]
)
def test_a_server_that_deletes_none_or_tells_of_nothing_remembers_all(answer):
    assert days_back(answer) == math.inf


def test_what_else_deletes_flow_runs_counts_where_that_is_sooner():
    assert days_back(404, flow_runs_kept_days=30) == pytest.approx(29.0)
    assert days_back(vacuum(True), flow_runs_kept_days=30) == pytest.approx(29.0)
    assert days_back(vacuum(True, "P10D"), flow_runs_kept_days=30) == pytest.approx(9.0)


def test_a_server_that_fails_at_the_question_is_told_of_and_runs_are_compared():
    warned = []
    assert remembered_since(ToldPrefect(500), Settings(), NOW, warned.append) == -math.inf
    [remark] = warned
    assert "does not tell how long it keeps flow runs" in remark
    assert "BLUESKY_PREFECT_FLOW_RUNS_KEPT_DAYS" in remark
    assert days_back(500, flow_runs_kept_days=30) == pytest.approx(29.0)


@pytest.mark.parametrize("answer", [401, 503, vacuum(True, "soon"), vacuum(True, None)])
def test_without_an_answer_nothing_is_compared(answer):
    with pytest.raises(PrefectUnavailable):
        days_back(answer)
