"""What is deployed beside the package speaks of metrics that are there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from bluesky_prefect.metrics._collector import METRICS

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "bluesky-prefect.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    **{f"{panel['id']} {panel['title']} {one['refId']}": one["expr"] for panel in PANELS for one in panel["targets"]},
    **{one["name"]: one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"},
    **{rule["alert"]: rule["expr"] for rule in RULES},
}


def series(description):
    """Return the names that a metric's samples have, each with its labels."""
    if description.type != "histogram":
        return {description.name: set(description.labels)}
    labels = set(description.labels)
    return {
        f"{description.name}_bucket": labels | {"le"},
        **{f"{description.name}_{end}": labels for end in ("sum", "count")},
    }


EXPOSED = {name: labels for one in METRICS.values() for name, labels in series(one).items()}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_each_metric_of_a_query_is_exposed_with_the_labels_asked_for(query):
    names = re.findall(r"\b(?:bluesky_prefect_\w+|up\b)", query)
    assert names
    assert set(names) - {"up"} <= EXPOSED.keys()
    # What the scrape adds, and what a histogram has.
    known = {"beamline", "instance", "job"}.union(*(EXPOSED.get(name, set()) for name in names))
    asked = [label for text in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)=", text)]
    asked += [label for text in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in text.split(", ")]
    assert set(asked) <= known


def test_each_metric_that_is_described_is_in_the_dashboard_or_in_an_alert():
    used = {name for query in QUERIES.values() for name in re.findall(r"bluesky_prefect_\w+", query)}
    named = {name for name, one in METRICS.items() if used & series(one).keys()}
    assert METRICS.keys() - named == {
        "bluesky_prefect_prefect_reachable_since_timestamp_seconds",
        "bluesky_prefect_tiled_reachable_since_timestamp_seconds",
    }


def test_the_dashboard_takes_its_data_source_and_beamlines_from_variables():
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["beamline"]["multi"]
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            selected = re.findall(r"bluesky_prefect_\w+(\{[^}]*\})?", target["expr"])
            assert all('beamline=~"$beamline"' in one for one in selected), target["expr"]


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_where_what_and_what_to_do(rule):
    assert re.fullmatch(r"BlueskyPrefect\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert "{{ $labels.beamline }}" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
