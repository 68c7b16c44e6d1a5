"""Journals on their way to a real Tiled: the same entries as TiledWriter makes, whatever happens on the way."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bluesky.plans as bp
import httpx
import numpy as np
import pandas as pd
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from tiled.client import from_uri
from tiled.client.dataframe import DataFrameClient
from tiled.structures.core import Spec

from bluesky_prefect.core import Settings
from bluesky_prefect.courier import JournalCourier
from bluesky_prefect.courier._journal_sender import JournalSender, RunRefused
from bluesky_prefect.journal import Journal, JournalDirectory
from bluesky_prefect.journal._frames import frame
from bluesky_prefect.stack import StackInfo
from bluesky_prefect.tiled_api import RAW_SPEC, Catalog
from bluesky_prefect.tiled_api._fitting import patches
from bluesky_prefect.tiled_api._run_writer import RowsMayBeDoubled
from tests.data.record import STREAMS
from tests.services.fault_proxy import FaultProxy
from tests.services.forked import run_code
from tests.services.prefect_process import wait_until
from tests.services.unsaved_runs import KINDS
from tests.system.beamline import Beamline

Documents = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def root(stack: StackInfo) -> Iterator[Any]:
    root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
    yield root
    root.context.close()


@pytest.fixture
def new_catalog(root: Any) -> Callable[[], Any]:
    def new() -> Any:
        return root.create_container(f"raw-{time.monotonic_ns()}", specs=[Spec(*RAW_SPEC)])

    return new


@pytest.fixture(scope="module")
def recorded(root: Any, stack: StackInfo) -> dict[str, Documents]:
    """The documents of runs of every kind, as the RunEngine emitted them."""
    catalog = root.create_container(f"raw-{time.monotonic_ns()}", specs=[Spec(*RAW_SPEC)])
    beamline = Beamline(catalog, stack.images)
    emitted: Documents = []
    beamline.engine.subscribe(lambda name, doc: emitted.append((name, doc)))
    kinds = beamline.all_kinds()
    found = {kind: _of_run(emitted, uid) for kind, uid in kinds.items()}
    for name in ("flyer", "scan_pages"):
        documents = [tuple(json.loads(line)) for line in (STREAMS / f"{name}.jsonl").read_text().splitlines()]
        found[name] = _of_run(documents, documents[0][1]["uid"])
    return found


def _of_run(documents: Documents, uid: str) -> Documents:
    named, of_run = {uid}, []
    for name, doc in documents:
        keys = ("run_start", "descriptor", "resource", "stream_resource")
        if (name == "start" and doc["uid"] == uid) or any(doc.get(key) in named for key in keys):
            of_run.append((name, doc))
            named.add(str(doc.get("uid")))
    return of_run


def _changing(values: list[Any], dtype: str = "number") -> Documents:
    run = compose_run(metadata={"scan_id": 1})
    stream = run.compose_descriptor(name="primary", data_keys={"x": {"source": "t", "dtype": dtype, "shape": []}})
    events = [
        stream.compose_event(data={"x": one}, timestamps={"x": 1.0}, seq_num=number, validate=False)
        for number, one in enumerate(values, start=1)
    ]
    start, descriptor = ("start", run.start_doc), ("descriptor", stream.descriptor_doc)
    return [start, descriptor, *(("event", event) for event in events), ("stop", run.compose_stop())]


def _journal(settings_or_path: Any, documents: Documents) -> Journal:
    path = getattr(settings_or_path, "journals_path", settings_or_path)
    journal = Journal(path, documents[0][1]["uid"])
    for name, doc in documents:
        journal.append(name, dict(doc))
    return journal


def _inline(raw: Any, documents: Documents) -> dict[str, Any]:
    """Write documents as a session without a courier does, and return what Tiled has then."""
    writer = TiledWriter(raw, patches=patches())
    for name, doc in documents:
        writer(name, dict(doc))
    return _entries(raw, documents)


def _entries(raw: Any, documents: Documents) -> dict[str, Any]:
    return _entry(raw[documents[0][1]["uid"]])


def _entry(node: Any) -> dict[str, Any]:
    """Return all that Tiled holds of a node and of what is below it."""
    node = getattr(node, "base", node)
    family = node.item["attributes"]["structure_family"]
    found: dict[str, Any] = {
        "metadata": json.loads(json.dumps(dict(node.metadata), default=str)),
        "specs": [(spec.name, spec.version) for spec in node.specs],
        "family": family,
    }
    if family == "container":
        return {**found, "children": {key: _entry(child) for key, child in sorted(node.items())}}
    if family == "table":
        table: pd.DataFrame = node.read()
        types = {name: str(one) for name, one in table.dtypes.items()}
        return {**found, "types": types, "table": table.to_dict("list")}
    array = np.asarray(node.read())
    return {**found, "dtype": str(array.dtype), "dims": node.dims, "array": array.tolist()}


def _comparable(entry: Any) -> str:
    """Return entries as text, in which NaN equals NaN."""
    return json.dumps(entry, sort_keys=True, default=str)


KIND_NAMES = [
    *("count", "scan", "grid", "baseline", "images", "arrays", "text", "hostile", "nothing", "failed", "aborted"),
    *("outer", "inner", "flyer", "scan_pages"),
]


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_run_of_any_kind_becomes_what_tiledwriter_makes_of_it(kind, recorded, new_catalog, tmp_path):
    documents = recorded[kind]
    expected = _comparable(_inline(new_catalog(), documents))

    whole, raw = _journal(tmp_path / "whole", documents), new_catalog()
    whole.close()
    signs: list[None] = []
    assert JournalSender(whole.path, goes_on=lambda: signs.append(None)).step(raw)
    assert len(signs) == len(documents)
    assert _comparable(_entries(raw, documents)) == expected

    raw = new_catalog()
    assert _followed(raw, documents, tmp_path / "followed")
    assert _comparable(_entries(raw, documents)) == expected


def _followed(raw: Any, documents: Documents, folder: Path) -> bool:
    """Write documents one at a time, each while the run goes on; return whether all is in Tiled then."""
    journal = Journal(folder, documents[0][1]["uid"])
    sender = JournalSender(journal.path)
    done = False
    for name, doc in documents:
        journal.append(name, dict(doc))
        done = sender.step(raw)
    journal.close()
    return done or sender.step(raw)


@pytest.mark.parametrize(
    "documents",
    [
        _changing([1, 2.5, 3]),
        _changing([1.0, None, 2.0]),
        _changing(["a", "bcd"], "string"),
        _changing([[1], [2, 3]], "array"),
        _changing([0, 2**40]),
    ],
    ids=["whole numbers, then others", "no value", "longer text", "longer lists", "large numbers"],
)
def test_values_that_change_their_type_are_not_cut_to_that_of_the_first(documents, new_catalog, tmp_path):
    expected = _comparable(_inline(new_catalog(), documents))
    raw = new_catalog()
    assert _followed(raw, documents, tmp_path)
    assert _comparable(_entries(raw, documents)) == expected


def test_a_run_that_goes_on_can_be_read_up_to_the_last_event(recorded, new_catalog, tmp_path):
    documents, raw = recorded["count"], new_catalog()
    uid = documents[0][1]["uid"]
    journal = Journal(tmp_path, uid)
    sender = JournalSender(journal.path)
    rows = 0
    for name, doc in documents[:-1]:
        journal.append(name, dict(doc))
        assert not sender.step(raw)
        if name == "event":
            rows += 1
            assert list(raw[uid]["primary"].base["internal"].read()["seq_num"]) == list(range(1, rows + 1))
    assert rows == 3
    assert not raw[uid].metadata.get("stop")
    journal.close()
    sender.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
from bluesky_prefect.core import get_settings
from bluesky_prefect.courier._journal_sender import JournalSender
from bluesky_prefect.tiled_api import Catalog
from bluesky_prefect.tiled_api._run_writer import RunWriter

path, last, follows = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "follows"
written = 0
put = RunWriter._put

def put_and_die(self, *document):
    global written
    put(self, *document)
    written += 1
    if written == last:
        os.kill(os.getpid(), signal.SIGKILL)

RunWriter._put = put_and_die
with Catalog.connect(get_settings()) as catalog:
    sender = JournalSender(path)
    while not sender.step(catalog.raw_for_writing()):
        pass
"""


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("kind", ["baseline", "images"])
def test_a_courier_killed_at_any_document_leaves_nothing_half_and_nothing_twice(
    kind, follows, recorded, new_catalog, stack, tmp_path
):
    documents = recorded[kind]
    expected = _comparable(_inline(new_catalog(), documents))
    for last in range(1, len(documents) + 1):
        raw = new_catalog()
        environment = {
            **os.environ,
            **stack.environment(),
            "BLUESKY_PREFECT_RAW_CONTAINER": raw.path_parts[-1],
        }
        journal = _journal(tmp_path / f"{follows}-{last}", documents)
        if not follows:
            journal.close()
        how = "follows" if follows else "whole"
        killed = run_code(_KILLED, str(journal.path), str(last), how, env=environment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        journal.close()
        run = raw[documents[0][1]["uid"]]
        assert bool(run.metadata.get("stop")) == (last == len(documents)), killed.stderr

        assert JournalSender(journal.path).step(raw)

        assert _comparable(_entries(raw, documents)) == expected, last


def test_a_run_whose_session_died_is_in_tiled_up_to_the_last_event_without_a_stop(recorded, new_catalog, tmp_path):
    for kind in ("baseline", "images"):
        documents, raw = recorded[kind][:-1], new_catalog()
        journal = _journal(tmp_path, documents)
        journal.close()
        sender = JournalSender(journal.path)
        assert sender.step(raw)
        assert sender.stopped_at is None
        run = raw[documents[0][1]["uid"]]
        assert not run.metadata.get("stop")
        events = [doc for name, doc in documents if name == "event"]
        rows = sum(len(run[stream].base["internal"].read()) for stream in run)
        assert rows == len(events)
        if kind == "images":
            assert run["primary"]["img"].read().shape[0] == 2


@pytest.mark.parametrize("followed", [False, True])
def test_no_row_is_twice_in_a_run_whose_session_died_though_tiled_s_answer_was_lost(
    followed, new_catalog, tmp_path, monkeypatch
):
    append, answers = DataFrameClient.append_partition, [httpx.ReadTimeout("the answer is lost")]

    def loses_the_first(*values: Any, **named: Any) -> Any:
        answer = append(*values, **named)
        if answers:
            raise answers.pop()
        return answer

    monkeypatch.setattr(DataFrameClient, "append_partition", loses_the_first)
    documents, raw = _changing([1.0, 2.0, 3.0])[:-1], new_catalog()
    journal = _journal(tmp_path, documents[:4])
    sender = JournalSender(journal.path)
    if followed:
        assert not sender.step(raw)
    for name, doc in documents[4:]:
        journal.append(name, dict(doc))
    journal.close()

    with pytest.raises(RowsMayBeDoubled):  # the courier tries it again
        sender.step(raw)
    assert sender.step(raw)
    assert raw[documents[0][1]["uid"]]["primary"]["x"].read().tolist() == [1.0, 2.0, 3.0]


def test_a_journal_cut_anywhere_is_in_tiled_as_far_as_it_is_whole(recorded, new_catalog, tmp_path):
    documents = recorded["count"]
    journal = _journal(tmp_path, documents)
    journal.close()
    content = journal.path.read_bytes()
    start = len(frame(*documents[0]))
    for size in (start, start + 5, len(content) // 2, len(content) - 1):
        journal.path.write_bytes(content[:size])
        raw = new_catalog()
        assert JournalSender(journal.path).step(raw)
        assert not raw[documents[0][1]["uid"]].metadata.get("stop")


def test_a_journal_cut_in_its_first_document_is_refused(recorded, new_catalog, tmp_path):
    journal = _journal(tmp_path, recorded["count"])
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[:50])
    with pytest.raises(RunRefused, match="does not begin with a start document"):
        JournalSender(journal.path).step(new_catalog())


def test_a_damaged_journal_is_refused_and_what_is_before_that_is_in_tiled(recorded, new_catalog, tmp_path):
    documents, raw = recorded["count"], new_catalog()
    journal = _journal(tmp_path, documents)
    journal.close()
    content = bytearray(journal.path.read_bytes())
    content[-10] ^= 0xFF  # of the stop document
    journal.path.write_bytes(content)

    with pytest.raises(RunRefused, match="damaged at byte"):
        JournalSender(journal.path).step(raw)

    assert len(raw[documents[0][1]["uid"]]["primary"].base["internal"].read()) == 3


def test_a_run_that_tiled_has_is_not_replaced_by_one_that_is_emitted_anew(recorded, new_catalog, tmp_path):
    documents, raw = recorded["count"], new_catalog()
    _inline(raw, documents)
    raw[documents[0][1]["uid"]].update_metadata({"mark": "the same"})
    again = Journal(tmp_path, documents[0][1]["uid"])
    sender = JournalSender(again.path)
    for name, doc in documents[:4]:
        again.append(name, dict(doc))
        assert not sender.step(raw)
    again.close()
    assert sender.step(raw)
    assert raw[documents[0][1]["uid"]].metadata["mark"] == "the same"
    assert raw[documents[0][1]["uid"]].metadata["stop"]


@pytest.fixture
def proxy(stack: StackInfo) -> Iterator[FaultProxy]:
    with closing(FaultProxy(urlsplit(stack.tiled_uri).port)) as proxy:
        yield proxy


@pytest.fixture
def settings(proxy: FaultProxy, stack: StackInfo, new_catalog: Callable[[], Any], tmp_path: Path) -> Settings:
    return Settings(
        state_directory=tmp_path / "state",
        tiled_uri=proxy.url,
        tiled_api_key=stack.tiled_api_key,
        raw_container=new_catalog().path_parts[-1],
        retry_initial_s=0.1,
    )


@pytest.fixture
def raw(root: Any, settings: Settings) -> Any:
    return root[settings.raw_container]


@pytest.fixture
def courier(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[JournalCourier]:
    import tiled.client.utils

    # As the command sets them in the environment, before Tiled is imported.
    monkeypatch.setattr(tiled.client.utils, "TILED_RETRY_ATTEMPTS", 1)
    monkeypatch.setattr(tiled.client.utils, "TILED_RETRY_TIMEOUT", 1.0)
    catalogs = []

    def connect() -> Any:
        catalogs.append(Catalog.connect(settings))
        return catalogs[-1].raw_for_writing()

    courier = JournalCourier(settings, connect)
    courier.start()
    yield courier
    courier.close(30)
    for catalog in catalogs:
        catalog.close()


def _arrived(settings: Settings) -> bool:
    return not JournalDirectory(settings.journals_path).waiting()


@pytest.mark.usefixtures("courier")
def test_runs_that_waited_for_tiled_get_there_in_the_order_in_which_they_were_taken(proxy, settings, raw, recorded):
    proxy.mode = "refuse"
    taken = [recorded[kind] for kind in ("images", "count", "arrays", "nothing", "grid", "text")]
    for documents in taken:
        _journal(settings, documents).close()
        time.sleep(0.01)  # file systems count in less exact times
    proxy.mode = "pass"
    wait_until(lambda: _arrived(settings))
    assert list(raw) == [documents[0][1]["uid"] for documents in taken]


@pytest.mark.parametrize("follows", [True, False])
def test_a_sender_says_that_tiled_has_the_entry_of_a_run_before_the_run_is_whole(
    follows, recorded, new_catalog, tmp_path
):
    documents, raw, had_stop = recorded["images"], new_catalog(), []
    journal = _journal(tmp_path, documents)
    if not follows:
        journal.close()

    def begun() -> None:
        had_stop.append("stop" in raw[documents[0][1]["uid"]].metadata)

    JournalSender(journal.path, begun=begun).step(raw)
    journal.close()
    assert had_stop == [False]


@pytest.mark.parametrize("mode", ["refuse", "500", "slow"])
@pytest.mark.usefixtures("courier")
def test_without_tiled_runs_wait_and_all_of_them_get_there_later(mode, proxy, settings, raw, recorded, caplog):
    kinds = ("count", "scan", "outer", "inner", "images")
    proxy.mode = mode
    for kind in kinds:
        _journal(settings, recorded[kind]).close()
    goes_on = _journal(settings, _changing([1.0, 2.0])[:3])
    time.sleep(2.5)
    assert mode == "slow" or len(JournalDirectory(settings.journals_path).waiting()) == len(kinds) + 1

    proxy.mode = "pass"
    goes_on.close()
    wait_until(lambda: _arrived(settings), 60)

    assert not JournalDirectory(settings.journals_path).refused()
    for kind in kinds:
        assert raw[recorded[kind][0][1]["uid"]].metadata["stop"]
    assert mode == "slow" or [record.message for record in caplog.records if "Tiled is away" in record.message]


REFUSED = {
    "a value changes its type": "ArrowInvalid",
    "a datum without its resource": "UnresolvableForeignKeyError",
    "a format that Tiled does not know": "415",
    "NUL in a data key": "422",  # no 500 of DuckDB, which would pass for an outage
}


@pytest.mark.usefixtures("courier")
def test_what_tiled_refuses_is_set_aside_with_its_reason_and_the_others_go_on(settings, raw, caplog):
    bad = {kind: list(KINDS[kind]()) for kind in REFUSED}
    good = [list(KINDS[kind]()) for kind in ("good", "NUL in metadata", "good")]
    for documents in (good[0], *bad.values(), *good[1:]):
        _journal(settings, documents).close()

    wait_until(lambda: _arrived(settings), 60)

    directory = JournalDirectory(settings.journals_path)
    reasons = {one.run_uid: one.reason for one in directory.refused()}
    for kind, documents in bad.items():
        assert REFUSED[kind] in reasons.pop(documents[0][1]["uid"])
    assert not reasons
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(error.rpartition(" ")[2] for error in errors) == sorted(
        documents[0][1]["uid"][:8] for documents in bad.values()
    )
    assert all(raw[documents[0][1]["uid"]].metadata["stop"] for documents in good)
    assert raw[good[1][0][1]["uid"]].metadata["start"][r"sam\x00ple"] == r"Cu\x00"

    uid = bad["NUL in a data key"][0][1]["uid"]
    directory.retry(uid[:8])
    wait_until(lambda: _arrived(settings), 60)
    assert uid in [one.run_uid for one in directory.refused()]


@pytest.mark.usefixtures("courier")
def test_several_runs_at_once_are_followed_and_told_apart(settings, raw, recorded):
    runs = [_changing([float(number)] * 3) for number in range(6)]
    journals = [_journal(settings, documents[:3]) for documents in runs]
    for documents in runs:
        uid = documents[0][1]["uid"]
        wait_until(lambda uid=uid: uid in raw and "primary" in raw[uid] and "internal" in raw[uid]["primary"].base, 30)
    for journal, documents in zip(journals, runs, strict=True):
        for name, doc in documents[3:]:
            journal.append(name, dict(doc))
        journal.close()
    wait_until(lambda: _arrived(settings), 60)
    for number, documents in enumerate(runs):
        assert raw[documents[0][1]["uid"]]["primary"]["x"].read().tolist() == [float(number)] * 3


@contextmanager
def _requests(raw: Any) -> Iterator[list[str]]:
    """Yield the method and path of each request about this catalog, as they come."""
    seen: list[str] = []

    def note(request: httpx.Request) -> None:
        seen.append(f"{request.method} {request.url.path}")

    hooks = raw.context.http_client.event_hooks["request"]
    hooks.append(note)
    yield seen
    hooks.remove(note)


def test_a_short_scan_costs_tiled_as_many_requests_as_tiledwriter_does(recorded, new_catalog, tmp_path):
    documents, raw, inline = recorded["scan"], new_catalog(), TiledWriter(new_catalog())
    with _requests(raw) as expected:
        for name, doc in documents:
            inline(name, dict(doc))
    journal = Journal(tmp_path, documents[0][1]["uid"])
    come = iter(documents)
    name, doc = next(come)
    journal.append(name, dict(doc))

    def go_on(_: httpx.Request) -> None:
        for name, doc in islice(come, 100):
            journal.append(name, dict(doc))

    hooks = raw.context.http_client.event_hooks["request"]
    hooks.append(go_on)  # the scan goes on while Tiled is asked
    with _requests(raw) as seen:
        assert JournalSender(journal.path).step(raw)
    hooks.remove(go_on)
    journal.close()
    assert len(seen) == len(expected), (seen, expected)


def test_a_run_is_delivered_before_the_streams_of_it_are_closed(recorded, new_catalog, tmp_path):
    documents, raw = recorded["scan"], new_catalog()
    journal = _journal(tmp_path, documents)
    journal.close()
    with _requests(raw) as seen:
        sender = JournalSender(journal.path, lambda _: seen.append("delivered"))
        assert sender.step(raw)
    at = seen.index("delivered")
    assert seen[at - 1].startswith("PATCH /api/v1/metadata/")
    assert all("/stream/close/" in one for one in seen[at + 1 :])
    assert raw[documents[0][1]["uid"]].metadata["stop"]


@pytest.mark.usefixtures("courier")
def test_a_run_whose_streams_cannot_be_closed_is_delivered_once(settings, proxy, raw, recorded, caplog):
    uid = recorded["count"][0][1]["uid"]
    proxy.hidden = f"/stream/close/{settings.raw_container}/{uid}"
    with caplog.at_level("INFO"):
        _journal(settings, recorded["count"]).close()
        wait_until(lambda: "not told that it is over" in caplog.text, 30)
    assert caplog.text.count("is in Tiled, ") == 1
    assert not [one.message for one in caplog.records if one.levelname == "ERROR" and one.name.startswith("bluesky_p")]
    assert raw[uid].metadata["stop"]
    assert _arrived(settings)
    assert not JournalDirectory(settings.journals_path).refused()


@pytest.mark.usefixtures("courier")
def test_a_real_scan_is_in_tiled_a_moment_after_its_stop(settings, raw, stack):
    from ophyd.sim import det

    from bluesky_prefect.journal import RunRecorder

    engine = RunEngine(context_managers=[])
    recorder = RunRecorder(settings.journals_path)
    engine.subscribe(recorder)
    (uid,) = engine(bp.count([det], 5))
    wait_until(lambda: not JournalDirectory(settings.journals_path).is_waiting(uid), 30)
    assert raw[uid]["primary"]["det"].read().tolist() == [1.0] * 5
    recorder.close()
