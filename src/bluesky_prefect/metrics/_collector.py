"""The metrics: what each is called, what it says, and where it comes from."""

import math
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from bluesky_prefect._version import __version__
from bluesky_prefect.core import is_message
from bluesky_prefect.metrics._facts import Facts, FactsReader
from bluesky_prefect.metrics._followed_flow_runs import FollowedFlowRuns, Moment
from bluesky_prefect.metrics._signals import Reachability, Signals
from bluesky_prefect.outbox import Entry

# From what a person at the beamline does not notice to a weekend's outage, in seconds.
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
# Sessions may start deployments that are on nobody's list. Beyond so many they share one label.
_MAX_DEPLOYMENTS = 100
OTHERS = "others"
# A stop document that is older than that when its submission is made was emitted anew, or tells no time.
_STOPPED_BEFORE_S = 86400.0
_DEPLOYMENT = ("deployment",)
_ENDS = ("completed", "failed", "crashed", "cancelled")


@dataclass(frozen=True)
class Description:
    """A metric's name, its type, its labels, and what it says."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


_ALL = (
    Description(
        "bluesky_prefect_build_info", "gauge", "1, with the versions.", ("process", "version", "prefect", "python")
    ),
    Description("bluesky_prefect_healthy", "gauge", "1 if /healthz answers 200."),
    Description("bluesky_prefect_submissions_waiting", "gauge", "Submissions that wait to be sent.", _DEPLOYMENT),
    Description(
        "bluesky_prefect_submissions_oldest_age_seconds",
        "gauge",
        "How long the oldest waiting submission has waited; 0 if none waits.",
        _DEPLOYMENT,
    ),
    Description(
        "bluesky_prefect_submissions_sent_total",
        "counter",
        "Submissions that Prefect has accepted from this process.",
        _DEPLOYMENT,
    ),
    Description(
        "bluesky_prefect_dead_letters", "gauge", "Submissions that will not be sent by themselves.", _DEPLOYMENT
    ),
    Description(
        "bluesky_prefect_stop_to_sent_seconds",
        "histogram",
        "From a run's stop document to the flow run in Prefect.",
        _DEPLOYMENT,
    ),
    Description(
        "bluesky_prefect_stop_to_running_seconds",
        "histogram",
        "From a run's stop document to the flow run's start.",
        _DEPLOYMENT,
    ),
    Description(
        "bluesky_prefect_stop_to_completed_seconds",
        "histogram",
        "From a run's stop document to the flow run's end, of those that completed.",
        _DEPLOYMENT,
    ),
    Description(
        "bluesky_prefect_flow_runs_ended_total",
        "counter",
        "Flow runs sent from this process that have ended, by the state they ended in.",
        ("deployment", "state"),
    ),
    Description(
        "bluesky_prefect_journals_waiting", "gauge", "Runs on their way to Tiled; a run that goes on is one of them."
    ),
    Description(
        "bluesky_prefect_journals_waiting_bytes", "gauge", "Size of the journals of runs on their way to Tiled."
    ),
    Description(
        "bluesky_prefect_journals_oldest_age_seconds",
        "gauge",
        "How long the journal that has been idle longest has been so; 0 if no run is on its way.",
    ),
    Description("bluesky_prefect_journals_refused", "gauge", "Runs that Tiled refuses."),
    Description("bluesky_prefect_prefect_reachable", "gauge", "1 if Prefect could be used by whoever asked it last."),
    Description(
        "bluesky_prefect_prefect_reachable_since_timestamp_seconds", "gauge", "When prefect_reachable changed last."
    ),
    Description("bluesky_prefect_tiled_reachable", "gauge", "1 if Tiled could be used by whoever asked it last."),
    Description(
        "bluesky_prefect_tiled_reachable_since_timestamp_seconds", "gauge", "When tiled_reachable changed last."
    ),
    Description("bluesky_prefect_disk_free_bytes", "gauge", "Free space on the disk of the state directory."),
    Description("bluesky_prefect_disk_size_bytes", "gauge", "Size of the disk of the state directory."),
)
METRICS: Mapping[str, Description] = {one.name: one for one in _ALL}
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


class MetricsCollector:
    """Collects the metrics of a process, from what it knows already: no request is made.

    Parameters
    ----------
    signals : Signals
        What the process says of its work.
    facts : FactsReader
        Reads what is on the disk.
    followed : FollowedFlowRuns
        Gets the flow runs that are sent.
    process : str
        What the process is: ``courier``, say.
    deployments : sequence of str
        Those that are on the beamline's list.
    labels : mapping
        Labels that all metrics get.
    """

    def __init__(
        self,
        signals: Signals,
        facts: FactsReader,
        followed: FollowedFlowRuns,
        *,
        process: str,
        deployments: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._signals = signals
        self._facts = facts
        self._followed = followed
        self._labels = dict(labels or {})
        self._build = (process, __version__, _prefect_version(), platform.python_version())
        self._lock = threading.Lock()
        self._deployments: dict[str, None] = {}
        self._sent = self._counter("submissions_sent_total")
        self._ended = self._counter("flow_runs_ended_total")
        self._durations = {
            what: self._histogram(f"stop_to_{what}_seconds") for what in ("sent", "running", "completed")
        }
        for name in deployments:
            self._known(name)

    def describe(self) -> Iterator[Metric]:
        """Yield all metrics without values, by which a registry knows their names."""
        for one in METRICS.values():
            yield _FAMILIES[one.type](one.name, one.text)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, as they are now."""
        facts = self._facts.read()
        yield self._gauge("build_info", {self._build: 1})
        yield self._gauge("healthy", {(): not problems(self._signals, facts)})
        yield from self._of_submissions(facts)
        for one in (self._sent, self._ended, *self._durations.values()):
            yield from _collected(one)
        if facts.journals is not None:
            oldest = facts.journals.oldest
            yield self._gauge("journals_waiting", {(): facts.journals.waiting})
            yield self._gauge("journals_waiting_bytes", {(): facts.journals.size})
            yield self._gauge("journals_oldest_age_seconds", {(): 0.0 if oldest is None else _age_s(oldest)})
            yield self._gauge("journals_refused", {(): facts.journals.refused})
        yield from self._of_server("prefect", self._signals.prefect)
        yield from self._of_server("tiled", self._signals.tiled)
        if facts.disk is not None:
            yield self._gauge("disk_free_bytes", {(): facts.disk[0]})
            yield self._gauge("disk_size_bytes", {(): facts.disk[1]})

    def sent(self, entry: Entry, flow_run_id: str | None) -> None:
        """Take note of a submission that Prefect has accepted."""
        deployment = self._known(entry.deployment)
        self._sent.labels(*self._labels.values(), deployment).inc()
        # What was started again, and messages, have nobody waiting since the stop.
        if flow_run_id is None or entry.submission.generation:
            return
        stopped_at = _stopped_at(entry)
        self._observe("sent", deployment, time.time() - stopped_at)
        self._followed.add(flow_run_id, deployment, stopped_at)

    def became(self, moment: Moment) -> None:
        """Take note of what has become of a flow run."""
        if moment.what == "running":
            self._observe("running", moment.deployment, moment.after_s)
            return
        self._ended.labels(*self._labels.values(), moment.deployment, moment.state).inc()
        if moment.state == "completed":
            self._observe("completed", moment.deployment, moment.after_s)

    def _of_submissions(self, facts: Facts) -> Iterator[Metric]:
        found = [(self._known(one.deployment), one) for one in facts.unsent]
        with self._lock:
            counts = {state: {(name,): 0.0 for name in self._deployments} for state in ("waiting", "dead")}
        ages = dict(counts["waiting"])
        for name, one in found:
            of_state = counts[one.state]
            of_state[name,] = of_state.get((name,), 0.0) + one.count
            if one.state == "waiting":
                ages[name,] = max(ages.get((name,), 0.0), _age_s(one.since))
        yield self._gauge("submissions_waiting", counts["waiting"])
        yield self._gauge("submissions_oldest_age_seconds", ages)
        yield self._gauge("dead_letters", counts["dead"])

    def _of_server(self, name: str, server: Reachability) -> Iterator[Metric]:
        if server.last is not None:
            yield self._gauge(f"{name}_reachable", {(): server.last.is_up})
            yield self._gauge(f"{name}_reachable_since_timestamp_seconds", {(): server.last.since})

    def _observe(self, what: str, deployment: str, seconds: float) -> None:
        # Two clocks may differ by more than it took.
        self._durations[what].labels(*self._labels.values(), deployment).observe(max(seconds, 0.0))

    def _known(self, deployment: str) -> str:
        """Return the label of a deployment."""
        with self._lock:
            if deployment not in self._deployments:
                if len(self._deployments) >= _MAX_DEPLOYMENTS:
                    deployment = OTHERS
                self._deployments[deployment] = None
                self._begin(deployment)
        return deployment

    def _begin(self, deployment: str) -> None:
        """Have all that is counted of a deployment begin at 0: Prometheus sees no increase in what was not there."""
        self._sent.labels(*self._labels.values(), deployment)
        if is_message(deployment):
            return
        for one in self._durations.values():
            one.labels(*self._labels.values(), deployment)
        for state in _ENDS:
            self._ended.labels(*self._labels.values(), deployment, state)

    def _counter(self, name: str) -> Counter:
        told = METRICS[f"bluesky_prefect_{name}"]
        return Counter(told.name, told.text, (*self._labels, *told.labels), registry=None)

    def _histogram(self, name: str) -> Histogram:
        told = METRICS[f"bluesky_prefect_{name}"]
        return Histogram(told.name, told.text, (*self._labels, *told.labels), registry=None, buckets=_BUCKETS)

    def _gauge(self, name: str, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
        told = METRICS[f"bluesky_prefect_{name}"]
        made = GaugeMetricFamily(told.name, told.text, labels=(*self._labels, *told.labels))
        for labels, value in values.items():
            made.add_metric([*self._labels.values(), *labels], float(value))
        return made


def problems(signals: Signals, facts: Facts) -> list[str]:
    """Return what keeps a process from its work, a sentence each."""
    found = [*signals.problems(), facts.outbox_problem, facts.disk_problem]
    return list(dict.fromkeys(filter(None, found)))


def _collected(one: Counter | Histogram) -> Iterator[Metric]:
    """Yield what was counted, without the moment at which that began: it would be a series more for each label."""
    for metric in one.collect():
        metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        yield metric


def _stopped_at(entry: Entry) -> float:
    """Return when the run stopped, in seconds since the epoch; if nobody knows, when the submission was put in."""
    told = entry.submission.stop.get("time")
    if isinstance(told, int | float) and math.isfinite(told) and abs(entry.created - told) < _STOPPED_BEFORE_S:
        return float(told)
    return entry.created


def _age_s(since: float) -> float:
    return max(time.time() - since, 0.0)


def _prefect_version() -> str:
    try:
        return version("prefect")
    except PackageNotFoundError:
        return ""
