"""The metrics: their names, their labels, and what they say."""

import re
import threading
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bluesky_prefect import Outbox
from bluesky_prefect.core import Submission
from bluesky_prefect.journal import Journal, JournalDirectory
from bluesky_prefect.metrics import Signals
from bluesky_prefect.metrics._collector import METRICS, OTHERS, MetricsCollector
from bluesky_prefect.metrics._facts import FactsReader
from bluesky_prefect.metrics._followed_flow_runs import FollowedFlowRuns, Moment


class Process:
    """A process whose facts are read anew each time."""

    def __init__(self, tmp_path, **options):
        self.now = 0.0
        self.signals = Signals()
        self.outbox = Outbox(tmp_path / "outbox.sqlite", clock=lambda: time.time() - 60)
        self.memory = Outbox(None)
        self.journals = JournalDirectory(tmp_path / "journals")
        self.followed = FollowedFlowRuns(self.clock)
        self._facts = FactsReader([self.outbox, self.memory], tmp_path, self.journals, self.clock)
        self.collector = MetricsCollector(self.signals, self._facts, self.followed, process="courier", **options)
        self.signals.listen(self.collector.sent)
        self._registry = CollectorRegistry()
        self._registry.register(self.collector)

    def clock(self):
        return self.now

    def families(self):
        self.now += 60
        return {one.name: one for one in text_string_to_metric_families(generate_latest(self._registry).decode())}

    def value(self, name, **labels):
        samples = [sample for family in self.families().values() for sample in family.samples]
        found = [one.value for one in samples if one.name == f"bluesky_prefect_{name}" and one.labels == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def send(self, run_uid, deployment="flow/one", flow_run_id="id", **content):
        """Do what the forwarder does."""
        submission = Submission(f"{run_uid}:{deployment}", deployment, deployment, run_uid, **content)
        self.outbox.put(submission)
        [entry] = [one for one in self.outbox.entries(run_uid=run_uid) if one.key == submission.key]
        self.outbox.mark_sent(entry.key, flow_run_id)
        self.signals.sent(entry, flow_run_id)

    def close(self):
        self._facts.close()
        self.outbox.close()
        self.memory.close()


@pytest.fixture
def make_process(tmp_path):
    made = []

    def make(**options):
        made.append(Process(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def process(make_process):
    return make_process(deployments=["flow/one"])


def use_all(process):
    process.signals.prefect.up()
    process.signals.tiled.down("refused")
    process.send("a")
    process.collector.became(Moment("flow/one", "running", "", 1.0))
    process.collector.became(Moment("flow/one", "ended", "completed", 2.0))


def test_each_metric_is_exposed_with_the_type_the_labels_and_the_text_it_is_described_with(process):
    use_all(process)
    found = {}
    for family in process.families().values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels, family.documentation)
    assert found == {one.name: (one.type, set(one.labels), one.text) for one in METRICS.values()}


@pytest.mark.parametrize("name", METRICS)
def test_a_name_follows_the_conventions_of_prometheus(name):
    told = METRICS[name]
    assert re.fullmatch(r"bluesky_prefect_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") == (told.type == "counter")
    assert told.type != "histogram" or name.endswith("_seconds")
    # What has a unit names it in whole base units; what has none counts things.
    assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)", name)
    assert not {"le", "quantile"} & set(told.labels)


def test_no_series_is_of_a_run(process):
    for number in range(20):
        process.send(f"run-{number}", flow_run_id=f"id-{number}")
    before = sum(len(family.samples) for family in process.families().values())
    for number in range(20, 40):
        process.send(f"run-{number}", flow_run_id=f"id-{number}")
    assert sum(len(family.samples) for family in process.families().values()) == before


def test_what_is_on_the_list_counts_from_0_before_its_first_run(process):
    for name in ("submissions_waiting", "submissions_oldest_age_seconds", "submissions_sent_total", "dead_letters"):
        assert process.value(name, deployment="flow/one") == 0
    assert process.value("stop_to_running_seconds_count", deployment="flow/one") == 0
    assert process.value("flow_runs_ended_total", deployment="flow/one", state="failed") == 0
    assert process.value("stop_to_sent_seconds_created", deployment="flow/one") is None


def test_what_waits_is_counted_by_deployment_with_the_age_of_the_oldest(process):
    process.outbox.put(Submission("a", "one", "flow/one", "a"))
    process.memory.put(Submission("b", "one", "flow/one", "b"))
    process.outbox.put(Submission("c", "two", "flow/two", "c"), dead="no sample")
    assert process.value("submissions_waiting", deployment="flow/one") == 2
    assert 60 <= process.value("submissions_oldest_age_seconds", deployment="flow/one") < 3600
    assert process.value("dead_letters", deployment="flow/two") == 1
    assert process.value("submissions_waiting", deployment="flow/two") == 0


def test_deployments_that_nobody_has_listed_share_a_label_beyond_a_hundred(process):
    for number in range(300):
        process.outbox.put(Submission(f"{number}", "one", f"flow/{number}", f"{number}"))
    waiting = process.families()["bluesky_prefect_submissions_waiting"]
    assert len(waiting.samples) == 101
    assert sum(sample.value for sample in waiting.samples) == 300
    assert process.value("submissions_waiting", deployment=OTHERS) == 201


@pytest.mark.parametrize(
    ("ago_s", "least", "most"),
    [(100.0, 100, 130), (-5.0, 0, 1), (10 * 86400.0, 60, 90), ("yesterday", 60, 90), (float("nan"), 60, 90)],
    ids=["as told", "a clock ahead", "emitted anew", "text", "not a number"],
)
def test_the_time_to_sent_is_from_the_stop_or_from_the_outbox_if_that_tells_none(process, ago_s, least, most):
    process.send("a", stop={"time": time.time() - ago_s if isinstance(ago_s, float) else ago_s})
    assert process.value("stop_to_sent_seconds_count", deployment="flow/one") == 1
    assert least <= process.value("stop_to_sent_seconds_sum", deployment="flow/one") <= most


def test_what_was_started_again_and_messages_are_sent_and_have_no_duration(process):
    process.send("a", generation=1)
    process.send("b", flow_run_id=None)
    assert process.value("submissions_sent_total", deployment="flow/one") == 2
    assert process.value("stop_to_sent_seconds_count", deployment="flow/one") == 0
    process.now += 60
    assert process.followed.due() == []


def test_a_flow_run_that_failed_has_ended_and_not_completed(process):
    process.collector.became(Moment("flow/one", "ended", "failed", 2.0))
    assert process.value("flow_runs_ended_total", deployment="flow/one", state="failed") == 1
    assert process.value("stop_to_completed_seconds_count", deployment="flow/one") == 0


def test_journals_are_counted_and_measured(process):
    assert process.value("journals_oldest_age_seconds") == 0
    journal = Journal(process.journals.path, "a")
    journal.append("start", {"uid": "a", "time": 1.0})
    journal.close()
    assert process.value("journals_waiting") == 1
    assert process.value("journals_waiting_bytes") == journal.path.stat().st_size
    assert process.value("journals_refused") == 0
    process.journals.refuse(journal.path, "no")
    assert process.value("journals_waiting") == 0
    assert process.value("journals_refused") == 1


def test_a_server_that_nobody_has_asked_is_neither_reachable_nor_not(process):
    assert process.value("prefect_reachable") is None
    process.signals.prefect.down("refused")
    assert process.value("prefect_reachable") == 0
    assert process.value("prefect_reachable_since_timestamp_seconds") == pytest.approx(time.time(), abs=60)
    assert process.value("healthy") == 1  # which is no fault of this process


def test_a_process_that_cannot_do_its_work_is_not_healthy(process):
    process.signals.trouble("outbox", "The disk is full.")
    assert process.value("healthy") == 0


def test_an_outbox_that_cannot_be_read_is_a_problem_and_the_rest_is_served(process, tmp_path):
    (tmp_path / "outbox.sqlite").mkdir()
    assert process.value("healthy") == 0
    assert process.value("journals_waiting") == 0


def test_constant_labels_are_on_each_series(make_process):
    process = make_process(deployments=["flow/one"], labels={"beamline": "tst"})
    use_all(process)
    samples = [sample for family in process.families().values() for sample in family.samples]
    assert {sample.labels["beamline"] for sample in samples} == {"tst"}


def test_a_scrape_that_hangs_on_the_disk_keeps_nobody_from_sending(process):
    process.families()  # opens the file
    reads, goes_on = threading.Event(), threading.Event()
    [own, _] = process._facts._outboxes
    own._relaxed._connection.set_progress_handler(lambda: reads.set() or not goes_on.wait(30), 1)
    scrape = threading.Thread(target=process.families)
    scrape.start()
    assert reads.wait(30)
    process.outbox.put(Submission("a", "one", "flow/one", "a"))
    process.outbox.mark_sent(process.outbox.take().key)
    assert scrape.is_alive()
    goes_on.set()
    scrape.join()
