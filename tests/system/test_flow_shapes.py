"""Runs that reach Tiled in other shapes, or under other names, than plans usually make, and their export."""

import json
from pathlib import Path

import pandas
import pytest
from bluesky_tiled_plugins import TiledWriter
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from bluesky_prefect.flows import export
from tests.services.prefect_process import wait_until
from tests.system.flow_room import room_for

STREAMS = Path(__file__).parents[1] / "data" / "streams"
# What no URL can hold, Tiled refuses. These it takes.
FORGED = "0000\u2028ERROR    exported nothing \u202e"


@pytest.fixture(scope="module")
def room(stack, tmp_path_factory):
    with room_for(stack, tmp_path_factory.mktemp("shapes")) as room:
        yield room


@pytest.fixture
def written(room):
    """Write a recorded run to Tiled, its uid and scan id replaced by others."""

    def written(name, uid, scan_id):
        text = (STREAMS / f"{name}.jsonl").read_text()
        recorded = json.loads(text.splitlines()[0])[1]["uid"]
        writer = TiledWriter(room.tiled["raw"])
        for line in text.replace(recorded, json.dumps(uid)[1:-1]).splitlines():
            kind, document = json.loads(line)
            writer(kind, {**document, "scan_id": scan_id} if kind == "start" else document)

    return written


def csv_of(room, folder):
    [name] = [name for name in room.files(folder) if name.endswith(".csv")]
    return pandas.read_csv(Path(folder) / name)


def test_events_on_pages_are_exported_as_events_one_by_one_are(room, written):
    uids = {"scan": "11111111-0000-4000-8000-000000000001", "scan_pages": "11111111-0000-4000-8000-000000000002"}
    for scan_id, (name, uid) in enumerate(uids.items(), 5001):
        written(name, uid, scan_id)
    one_by_one, paged = (csv_of(room, export(uid)) for uid in uids.values())
    assert paged["motor"].tolist() == [-1, -0.5, 0, 0.5, 1]
    pandas.testing.assert_frame_equal(one_by_one, paged)


def test_the_pages_of_a_flyer_are_exported(room, written):
    written("flyer", "11111111-0000-4000-8000-000000000003", 5003)
    table = csv_of(room, export(5003))
    documents = map(json.loads, (STREAMS / "flyer.jsonl").read_text().splitlines())
    [page] = [document for kind, document in documents if kind == "event_page"]
    assert table["det"].tolist() == page["data"]["det"]


def test_a_uid_writes_no_line_of_its_own_into_the_log_of_its_flow_run(room, written):
    written("scan", FORGED, 5004)
    state = export(5004, return_state=True)
    assert state.message.isprintable()
    of_the_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))

    def logs():
        with get_client(sync_client=True) as client:
            return [log.message for log in client.read_logs(of_the_run)]

    wait_until(lambda: any("files to" in message for message in logs()))
    assert [message for message in logs() if not message.isprintable()] == []
    assert FORGED not in "".join(
        content.decode() for name, content in room.files(state.result()).items() if ".txt" in name
    )
