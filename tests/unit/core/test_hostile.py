"""Ten thousand documents of every kind, valid and broken: nothing is raised, and no run is without a record."""

import json
import logging
import sqlite3
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bluesky_prefect import PrefectCallback, Settings, Workflow
from bluesky_prefect.core import Submission, uid_text
from bluesky_prefect.prefect_api._client import flow_run_name, flow_run_tags
from bluesky_prefect.prefect_api._parameters import FILLED_NAMES, parameters_for
from tests.unit.core.hostile_values import HOSTILE_VALUES

DOCUMENTS = 10_000
DOCUMENTS_AT_ONCE = 20
UIDS = ["uid-0", "uid-1", "uid-2", "uid-3"]
UNSAFE = {chr(number) for number in (*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F))}


class Made(NamedTuple):
    """Stands for a hostile value until the test makes it, so that a failing example can be printed."""

    name: str


def made(value: Any) -> Any:
    if isinstance(value, Made):
        return HOSTILE_VALUES[value.name]()
    if isinstance(value, dict):
        return {key: made(item) for key, item in value.items()}
    if isinstance(value, list):
        return [made(item) for item in value]
    return value


texts = st.sampled_from(
    ["", "x\nERROR forged", "\x1b[2J", "\u202egnp", "\ud800", "a\x00b", "=1+1", "../../etc", "{{ 6 * 7 }}", "Grüße"]
)
hostile = st.sampled_from([Made(name) for name in HOSTILE_VALUES])
numbers = st.sampled_from([0, -1, 7, 2**63, -(2**64), 10**400, 0.5, float("nan"), float("-inf"), True, False])
leaves = texts | numbers | hostile | hostile | st.none()
keys = st.sampled_from(["a", "\ud800", "a\x00b", "__prefect_kind", "$ref", None, 7, (1, "\x00"), b"\xff", float("nan")])
values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(keys, leaves, max_size=3)
uids = st.sampled_from(UIDS)
addresses = st.sampled_from(["file://localhost/a.h5", "a/../../b", "/\udcff.h5", ""])
some = {"time": numbers, "unknown": values}
documents = {
    "start": {
        **some,
        "uid": uids | uids | uids | values,
        "scan_id": numbers | values,
        "plan_name": st.just("count") | values,
        "detectors": st.just(["det"]) | values,
        "hints": values,
        "prefect": st.sampled_from([True, None]),
    },
    "stop": {
        **some,
        "uid": uids | values,
        "run_start": uids | uids | uids | values,
        "exit_status": st.just("success") | values,
        "reason": texts,
        "num_events": values,
    },
    "resource": {**some, "run_start": uids | values, "root": addresses | values, "resource_path": addresses | values},
    "stream_resource": {**some, "run_start": uids | values, "uri": addresses | values},
}
ignored = [
    "descriptor", "event", "event_page", "datum", "datum_page", "stream_datum", "bulk_events", "bulk_datum", "what", "",
    None, ("stop",),
]  # fmt: skip


def of_kind(name: str) -> st.SearchStrategy[tuple[str, Any]]:
    regular = st.fixed_dictionaries({}, optional=documents[name])
    return st.tuples(st.just(name), regular | regular | regular | values)


sequences = st.lists(
    of_kind("start")
    | of_kind("stop")
    | of_kind("resource")
    | of_kind("stream_resource")
    | st.tuples(st.sampled_from(ignored), values),
    min_size=DOCUMENTS_AT_ONCE,
    max_size=DOCUMENTS_AT_ONCE,
)


class Messages(logging.Handler):
    """Everything that is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))


class Session:
    """A callback whose workflows remember which runs they were asked about."""

    def __init__(self, settings: Settings) -> None:
        self.forget()
        self.callback = PrefectCallback(
            [
                Workflow("all/local", when=self._all, parameters=lambda run: {"files": run.files, "start": run.start}),
                Workflow("by-name/local", when=lambda run: run.exit_status == "success"),
                Workflow("broken/local", when=self._broken),
            ],
            settings=settings,
        )
        self._outbox = sqlite3.connect(settings.outbox_path)

    def _all(self, run: Any) -> bool:
        self.asked.append(run.uid)
        return True

    def _broken(self, run: Any) -> bool:
        if "plan_name" not in run.start:
            self.undecided.append(run.uid)
        return run.start["plan_name"] == "never"

    def take(self, name: Any, document: Any) -> None:
        if name == "stop":
            self.stops += 1
        returned_name, returned = self.callback(name, document)
        assert returned_name is name
        assert returned is document

    def forget(self) -> None:
        self.asked: list[str] = []
        self.undecided: list[str] = []
        self.stops = 0

    def check_kept(self) -> None:
        """Check that each run asked about has its entry, which can be read and sent, and empty the outbox."""
        kept = self._kept()
        entries = Counter((deployment, uid) for deployment, uid, _, _ in kept)
        assert set(entries.values()) <= {1}
        assert {uid for deployment, uid in entries if deployment == "all/local"} == set(self.asked)
        assert {uid for deployment, uid in entries if deployment == "broken/local"} == set(self.undecided)
        for entry in kept:
            check(*entry)

    def _kept(self) -> list[tuple[str, str, str | None, bytes]]:
        """Return what the outbox's file holds (with the reason, if it is dead), and empty it."""
        columns = "deployment, run_uid, iif(state = 'dead', reason, NULL), submission"
        query = f"SELECT {columns} FROM entries WHERE state != 'declined'"
        kept = self._outbox.execute(query).fetchall()
        with self._outbox:
            self._outbox.execute("DELETE FROM entries")
        return kept

    def end(self) -> None:
        self._outbox.close()
        self.callback.close()


@pytest.fixture(scope="module")
def logged():
    handler = Messages()
    logger = logging.getLogger("bluesky_prefect")
    logger.addHandler(handler)
    yield handler.written
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def session(tmp_path_factory, logged):
    # Its forwarder finds no Prefect, and sleeps.
    waits = {"retry_initial_s": 60.0, "retry_max_s": 600.0}
    session = Session(Settings(state_directory=tmp_path_factory.mktemp("state"), **waits))
    yield session
    session.end()


@pytest.fixture(scope="module")
def low_limit():
    """What has no end reaches any limit: here, soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bluesky_prefect.core._documents.MAX_VALUES", 1000)
        yield


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_a_value_that_no_document_should_hold_costs_no_run_its_record(session, logged, name):
    session.forget()
    logged.clear()
    value = HOSTILE_VALUES[name]()
    session.take("start", {"uid": name, "plan_name": value, "scan_id": value, "sample": [value, {"x": value}]})
    for kind in ("resource", "stream_resource"):
        session.take(kind, {"run_start": name, "root": value, "resource_path": value, "uri": value})
        session.take(kind, {"run_start": value, "resource_path": "x", "uri": "x"})
    session.take("stop", {"run_start": name, "uid": value, "exit_status": value, "reason": value})
    session.take("stop", {"run_start": value, "uid": value})
    session.take("start", value)
    session.take("stop", value)
    session.take(name, value)
    assert len(session.asked) == 3
    assert session.asked[0] == name
    session.check_kept()
    assert_on_one_line(logged)


@settings(
    max_examples=DOCUMENTS // DOCUMENTS_AT_ONCE,
    derandomize=True,  # the same documents each time
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),  # how long drawing takes depends on who else uses the machine
)
@given(sequence=sequences)
@pytest.mark.usefixtures("low_limit")
def test_no_document_raises_and_each_stop_leaves_its_records(session, logged, sequence):
    session.forget()
    logged.clear()
    ends = [document.get("run_start") for name, document in sequence if name == "stop" and isinstance(document, dict)]
    wanted = {uid for uid in ends if uid in UIDS}
    for name, document in sequence:
        session.take(name, made(document))
    # Every stop is asked about, and what is wanted is kept once for each run and workflow.
    assert len(session.asked) == session.stops
    assert wanted <= set(session.asked)
    session.check_kept()
    assert_on_one_line(logged)


def assert_on_one_line(lines: list[str]) -> None:
    for line in lines:
        assert not UNSAFE & set(line), line


def check(deployment: str, uid: str, reason: str | None, text: bytes) -> None:
    """Check that an entry can be read by anybody, and be sent."""
    strict = json.loads(text, parse_constant=pytest.fail)
    assert rb"\u0000" not in text
    json.dumps(strict, ensure_ascii=False).encode()  # no half characters
    submission = Submission.from_json(text)
    assert submission.run_uid == uid == uid_text(uid)
    assert isinstance(submission.start, dict)
    assert isinstance(submission.stop, dict)
    if reason is not None:
        assert submission.undecided
        assert not UNSAFE & set(reason)
    everything = {"properties": {name: {} for name in FILLED_NAMES}}
    sent = json.dumps(parameters_for(submission, everything, {}), allow_nan=False)
    assert '"__prefect_kind"' not in sent
    assert '"$ref"' not in sent
    for name in [submission.key, flow_run_name(submission), *flow_run_tags(submission)]:
        assert not UNSAFE & set(name)
        assert len(name.encode()) < 2700
    if deployment == "all/local":
        assert set(strict["parameters"]) == {"files", "start"}
