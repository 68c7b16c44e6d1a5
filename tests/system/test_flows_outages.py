"""What the flows do while services on the internet, or Tiled, are away: the export comes first."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bluesky.plans import count
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from bluesky_prefect.core import TiledUnavailable, get_settings
from bluesky_prefect.flows import export, fun_fact, my_workflow
from bluesky_prefect.flows.common._service_record import ServiceRecord
from tests.services.prefect_process import ask, wait_until
from tests.system.beamline import Beamline
from tests.system.flow_room import room_for, settings_from

BUDGET_S = 3.0
# So long a service that hangs does not answer.
HANGS_S = 60.0
REASONS = {
    "hang": "no answer within",
    "500": "HTTP status 500",
    "garbage": "the answer is not JSON",
    "other": "not understood",
    "refuse": "Connection refused",
}


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("outages")) as room:
        yield room


@pytest.fixture(scope="module")
def uid(room):
    beamline = Beamline(room.tiled["raw"], room.stack.images)
    [uid] = beamline.run(count([beamline.devices.det], 2))
    return uid


@pytest.fixture(autouse=True)
def _recovered(room):
    """Services that are well, and that nobody remembers as away."""
    forget_outages(room)
    yield
    room.weather.mode = room.cats.mode = "well"


def forget_outages(room: Any) -> None:
    """Have nobody remember that a service was away: runs wait for such a one only while they have else to do."""
    for file in room.state.glob("unavailable-*.json"):
        file.unlink()


def subflows_of(room: Any, state: Any) -> dict[str, dict[str, Any]]:
    """Return the flow runs that a flow run started, by name."""
    parent = {"parent_flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}
    return {one["name"]: one for one in ask(room.stack, "POST", "/flow_runs/filter", json={"flow_runs": parent}).json()}


def text_of(room: Any, folder: str) -> str:
    [text] = [content for name, content in room.files(folder).items() if name.endswith(".txt")]
    return text.decode()


@pytest.mark.parametrize("mode", REASONS)
def test_without_weather_the_export_completes_and_says_why(room, uid, mode, caplog):
    # A day of its own for each way to fail, so that nothing comes from the cache.
    date = f"2021-01-{10 + list(REASONS).index(mode)}"
    environment: dict[str, str | None] = {}
    if mode == "refuse":
        environment = {"BLUESKY_PREFECT_WEATHER_ARCHIVE_URL": "http://127.0.0.1:9/v1/archive"}
    else:
        room.weather.mode = mode
    if mode == "hang":
        environment = {"BLUESKY_PREFECT_WEATHER_TIMEOUT_S": "0.2"}
    before = set(room.cache.iterdir()) if room.cache.exists() else set()
    with settings_from(environment):
        state = export(uid, date=date, return_state=True)
    assert state.is_completed()
    assert state.message == "scan 1 count: 2 points, 4 files"
    folder = state.result()
    [why] = re.findall(r"Weather\n-------\nnot available: (.*)\n", text_of(room, folder))
    assert REASONS[mode] in why
    assert f"No weather for run {uid}: {why}" in caplog.text
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    assert sorted(Path(name).suffix for name in room.files(folder)) == [".csv", ".nxs", ".png", ".txt"]
    # Nothing was remembered of it, neither a failure nor an error.
    assert (set(room.cache.iterdir()) if room.cache.exists() else set()) == before
    room.weather.mode = "well"
    if mode in {"500", "refuse"}:
        forget_outages(room)
        assert "mean temperature: 61.5 °F" in text_of(room, export(uid, date=date))


def test_no_earlier_picture_stays_beside_a_summary_without_weather(room, uid):
    assert "scan_1_count_temperature.png" in room.files(export(uid, date="2021-02-01"))
    room.weather.mode = "500"
    assert "scan_1_count_temperature.png" not in room.files(export(uid, date="2021-02-02"))


def test_without_a_fun_fact_no_flow_run_fails_and_fun_fact_says_why(room, uid, caplog):
    room.cats.mode = "500"
    state = my_workflow(uid, return_state=True)
    assert state.is_completed()
    assert state.message == "scan 1 count: 2 points, 5 files"
    assert len(room.files(state.result())) == 5
    assert len(room.cats.requests) >= 2  # it was tried again
    subflows = subflows_of(room, state)
    assert set(subflows) == {f"my-workflow {uid}-fun-fact", f"scan-1-count-{uid[:8]}-export"}
    fact = subflows[f"my-workflow {uid}-fun-fact"]["state"]
    assert (fact["type"], fact["name"]) == ("COMPLETED", "Unavailable")
    assert fact["message"] == "no fun fact: 127.0.0.1: HTTP status 500"
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


@pytest.mark.parametrize("answer", ["garbage", "other"])
def test_what_is_no_fact_is_not_taken_for_one(room, answer):
    room.cats.mode = answer
    state = fun_fact(return_state=True)
    assert (state.is_completed(), state.name) == (True, "Unavailable")
    assert state.message.startswith("no fun fact: ")
    assert fun_fact() is None


def test_an_error_of_ours_still_fails(room, uid, monkeypatch):
    def broken(self):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(ServiceRecord, "asking", broken)
    assert fun_fact(return_state=True).is_failed()
    state = my_workflow(uid, return_state=True)
    assert state.is_completed()  # the export is what counts
    assert [one["state_type"] for name, one in subflows_of(room, state).items() if "fact" in name] == ["FAILED"]


def test_what_three_runs_found_away_the_fourth_does_not_ask_for(room, uid):
    export(uid, date="2021-04-30")
    room.weather.mode = room.cats.mode = "500"
    for day in range(1, 4):
        my_workflow(uid, date=f"2021-05-0{day}")
    asked = len(room.weather.requests), len(room.cats.requests)
    state = my_workflow(uid, date="2021-05-04", return_state=True)
    assert (len(room.weather.requests), len(room.cats.requests)) == asked
    assert state.is_completed()
    assert "the last 3 times; asked again in" in text_of(room, state.result())
    # What was learnt before that day is in Prefect's cache all the same.
    assert "mean temperature: 61.5 °F" in text_of(room, export(uid, date="2021-04-30"))


def test_services_that_are_switched_off_are_not_asked_nor_spoken_of(room, uid, caplog):
    before = len(room.weather.requests), len(room.cats.requests)
    with settings_from({"BLUESKY_PREFECT_WEATHER": "false", "BLUESKY_PREFECT_CAT_FACT": "false"}):
        state = my_workflow(uid, date="2021-06-01", return_state=True)
        by_hand = fun_fact(return_state=True)
    assert state.message == "scan 1 count: 2 points, 4 files"
    assert list(subflows_of(room, state)) == [f"scan-1-count-{uid[:8]}-export"]
    assert (by_hand.name, by_hand.message) == ("Unavailable", "switched off by BLUESKY_PREFECT_CAT_FACT")
    assert (len(room.weather.requests), len(room.cats.requests)) == before
    [exported] = subflows_of(room, state).values()
    shown_on = {"flow_runs": {"id": {"any_": [exported["id"], str(state.state_details.flow_run_id)]}}}
    page = ask(room.stack, "POST", "/artifacts/filter", json=shown_on).text
    assert "scan_1_count.txt" in page
    said = text_of(room, state.result()) + page + caplog.text.partition("fun-fact")[0]
    assert not re.search(r"weather|temperature|fun fact", said, re.IGNORECASE)


def test_nothing_waits_for_a_weather_service_that_is_known_to_be_away(room, uid):
    # It never answers, and it may take an hour; the first run waits for it as long as it may.
    room.weather.mode = "hang"
    with settings_from({"BLUESKY_PREFECT_WEATHER_TIMEOUT_S": "0.2"}):
        export(uid, date="2021-07-01")
    folder = export(uid, date="2021-07-02")
    assert "not available: 127.0.0.1: no answer in time" in text_of(room, folder)


def test_services_that_hang_cost_a_run_three_seconds_at_most_in_all(room, uid):
    room.weather.mode = room.cats.mode = "hang"
    with settings_from({"BLUESKY_PREFECT_WEATHER_TIMEOUT_S": None, "BLUESKY_PREFECT_CAT_FACT_TIMEOUT_S": None}):
        weather_s, cat_fact_s = get_settings().weather_timeout_s, get_settings().cat_fact_timeout_s
        # Not asked before: this day is not in the cache.
        states = [fun_fact(return_state=True), export(uid, date="2021-03-01", return_state=True)]
    assert weather_s + cat_fact_s <= BUDGET_S
    assert [(state.is_completed(), state.name) for state in states] == [(True, "Unavailable"), (True, "Completed")]
    assert states[0].message == f"no fun fact: 127.0.0.1: no answer within {cat_fact_s:g} s"
    assert f"not available: 127.0.0.1: no answer within {weather_s:g} s" in text_of(room, states[1].result())
    flow_runs = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id for state in states]))

    def seconds() -> dict[str, float]:
        """Return how long the task runs took that Prefect knows the ends of: it learns of them late."""
        with get_client(sync_client=True) as client:
            ended = [one for one in client.read_task_runs(flow_run_filter=flow_runs) if one.state.is_final()]
        return {re.split("[- ]", one.name)[0]: one.total_run_time.total_seconds() for one in ended}

    wait_until(lambda: seconds().keys() >= {"get_weather", "get_cat_fact"})
    # With Prefect's own work on a task, which takes its time on a busy machine.
    assert weather_s <= seconds()["get_weather"] < HANGS_S
    assert cat_fact_s <= seconds()["get_cat_fact"] < HANGS_S


def test_an_export_that_fails_fails_the_workflow(room):
    state = my_workflow("33333", return_state=True)
    assert state.is_failed()
    assert "RunNotFound" in state.message


def test_another_process_takes_the_weather_from_the_cache_and_says_so(room, uid):
    export(uid)
    room.weather.mode = "500"
    program = f"from bluesky_prefect.flows import my_workflow; my_workflow({uid!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **room.environment()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log = done.stderr
    begun = ["for flow 'my-workflow'", "Getting fun fact...", "Now exporting a file..."]
    fact = ["for flow 'fun-fact'", "Task run 'get_cat_fact-", "A cat can jump up to six times its length."]
    export_ = ["for flow 'export'", "Task run 'get_tiled_data-", "Task run 'get_weather"]
    for at_once in (
        fact,
        *([*export_, f"Task run '{task}-"] for task in ("format_weather", "save_temp_plot", "write_data_to_tiled")),
    ):
        positions = [log.index(words) for words in (*begun, *at_once, "Done!")]
        assert positions == sorted(positions)
    assert "Cached(type=COMPLETED)" in log
    assert room.stack.tiled_api_key.get_secret_value() not in log + done.stdout


def test_tiled_away_is_an_error_that_names_it(room):
    environment = {"BLUESKY_PREFECT_TILED_URI": "http://user:secret@127.0.0.1:9/?api_key=deadbeef"}
    program = (
        "from bluesky_prefect.tiled_api._catalog import *; from bluesky_prefect.core._settings import get_settings\n"
    )
    program += "Catalog.connect(get_settings())"
    done = subprocess.run(
        # How often Tiled's client tries is read when it is imported.
        [sys.executable, "-c", program],
        env={**os.environ, **environment, "TILED_RETRY_ATTEMPTS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert TiledUnavailable.__name__ in last
    assert "Tiled at http://127.0.0.1:9 cannot be reached" in last
    assert "secret" not in last
    assert "deadbeef" not in last
