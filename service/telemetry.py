"""What the service tells Prometheus: names, labels and buckets, with a registry of its own for each app.

Base units, no ids as labels, and every label set that is known when a bundle is loaded exists from then on: a rate
over a series that appears with its first alarm would miss that alarm.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.assessment import Assessment
from models.detector import Detector
from models.encoder import DeviceInfo
from models.vocabulary import Decision, Domain, SectionKey, WarningCode
from service.registered import Registered, TargetState
from service.thresholds import SECTION_LABELS, Thresholds, section_labels

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_P_VALUES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_STAGES = ("decode", "features", "queue", "encode", "score")
RELOADS = ("promoted", "refused")


class Outcome(StrEnum):
    """How a request ended, for `earwitness_requests_total`."""

    OK = "ok"
    REJECTED = "rejected"
    OVERLOADED = "overloaded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


def outcome_of(status: int) -> Outcome:
    """The outcome that a status stands for."""
    known = {429: Outcome.OVERLOADED, 499: Outcome.CANCELLED, 503: Outcome.OVERLOADED, 504: Outcome.EXPIRED}
    if status in known:
        return known[status]
    return Outcome.OK if status < 400 else Outcome.REJECTED if status < 500 else Outcome.FAILED


class Metrics:
    """Every metric of one app."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("earwitness_requests", "Requests answered.", ["route", "outcome"], registry=registry)
        self._request_seconds = Histogram(
            "earwitness_request_seconds",
            "From the first byte to the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.ready = Gauge(
            "earwitness_ready", "1 when a bundle is loaded and has reproduced its canary.", registry=registry
        )
        self._stages = Histogram(
            "earwitness_stage_seconds", "Time in each stage of scoring.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._batch_size = Histogram(
            "earwitness_batch_size",
            "Clips that went through the networks in one run.",
            buckets=_BATCHES,
            registry=registry,
        )
        self._queue_depth = Gauge("earwitness_queue_depth", "Clips that wait for the networks.", registry=registry)
        self._queue_capacity = Gauge(
            "earwitness_queue_capacity", "Clips and registrations that may be in hand at once.", registry=registry
        )
        self._in_hand = Gauge("earwitness_requests_in_hand", "Clips and registrations in hand.", registry=registry)
        self._decisions = Counter(
            "earwitness_decisions", "Decisions.", [*SECTION_LABELS, "decision"], registry=registry
        )
        self._p_value = Histogram(
            "earwitness_p_value",
            "p-values of clips: uniform when all is well.",
            SECTION_LABELS,
            buckets=_P_VALUES,
            registry=registry,
        )
        self._deviation = Gauge(
            "earwitness_deviation",
            "Robust standard deviations of the last clip's score.",
            SECTION_LABELS,
            registry=registry,
        )
        self._level = Gauge("earwitness_level_dbfs", "Level of the last clip.", SECTION_LABELS, registry=registry)
        self._below_normal = Gauge(
            "earwitness_level_below_normal",
            "1 when the last clip was quieter than normal: machine or microphone off.",
            SECTION_LABELS,
            registry=registry,
        )
        self._last_clip = Gauge(
            "earwitness_last_clip_timestamp_seconds",
            "When the last clip was scored.",
            SECTION_LABELS,
            registry=registry,
        )
        self._reloads = Counter(
            "earwitness_reloads",
            "Bundles that took over while the service ran, or were refused.",
            ["outcome"],
            registry=registry,
        )
        self._bundle = Gauge(
            "earwitness_bundle_info", "The loaded bundle.", ["bundle", "demonstration"], registry=registry
        )
        self._device = Gauge(
            "earwitness_device_info",
            "Where the networks run.",
            ["requested", "running", "fallback"],
            registry=registry,
        )
        self._targets = _Targets()
        registry.register(self._targets)
        self._thresholds = Thresholds()
        registry.register(self._thresholds)
        for stage in _STAGES:
            self._stages.labels(stage)
        for outcome in RELOADS:
            self._reloads.labels(outcome)

    def know_routes(self, routes: Iterable[str]) -> None:
        """Create the series of every route."""
        for route in routes:
            self._request_seconds.labels(route)
            for outcome in Outcome:
                self._requests.labels(route, outcome.value)

    def know_queue(self, depth: Callable[[], float]) -> None:
        """Export, at each scrape, how many clips wait for the networks."""
        self._queue_depth.set_function(depth)

    def know_places(self, capacity: int, held: Callable[[], float]) -> None:
        """Export how many requests may be in hand and, at each scrape, how many are."""
        self._queue_capacity.set(capacity)
        self._in_hand.set_function(held)

    def know_bundle(self, detector: Detector) -> None:
        """Create the series of every section of the bundle, and say what is loaded and where it runs.

        Of a section that another bundle had too the series go on.
        """
        self._targets.sections = detector.sections
        for key in detector.sections:
            for domain in Domain:
                labels = (key.machine_type, key.section, domain.value)
                self._p_value.labels(*labels)
                for decision in Decision:
                    self._decisions.labels(*labels, decision.value)
        self._thresholds.know_bundle(detector)
        demonstration = str(detector.bundle.manifest.demonstration).lower()
        self._bundle.clear()
        self._bundle.labels(detector.bundle.id, demonstration).set(1)
        self._device.clear()
        self._device.labels(*_device_labels(detector.device)).set(1)

    def forget(self, sections: Iterable[SectionKey]) -> None:
        """Drop the series of sections that no bundle has any more."""
        for key, domain in itertools.product(sections, Domain):
            labels = (key.machine_type, key.section, domain.value)
            for metric in (self._p_value, self._deviation, self._level, self._below_normal, self._last_clip):
                metric.remove(*labels)
            for decision in Decision:
                self._decisions.remove(*labels, decision.value)

    def observe_reload(self, outcome: str) -> None:
        """Count a bundle that was to take over: one of `RELOADS`."""
        self._reloads.labels(outcome).inc()

    def know_registrations(self, registered: Registered) -> None:
        """Export, at each scrape, the age of what is in force, whether it is surely that, and which shares alarm."""
        self._targets.registered = self._thresholds.registered = registered

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, outcome_of(status).value).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage."""
        self._stages.labels(stage).observe(seconds)

    def observe_batch(self, size: int) -> None:
        """Record the size of a batch."""
        self._batch_size.observe(size)

    def observe_assessment(self, assessment: Assessment) -> None:
        """Count one scored clip."""
        labels = (assessment.machine_type, assessment.section, assessment.domain.value)
        if assessment.decision is not None:
            self._decisions.labels(*labels, assessment.decision.value).inc()
        if assessment.p_value is not None:
            self._p_value.labels(*labels).observe(assessment.p_value)
        if assessment.deviation is not None:
            self._deviation.labels(*labels).set(assessment.deviation)
        self._level.labels(*labels).set(assessment.clip.level_dbfs)
        codes = {notice.code for notice in assessment.warnings}
        self._below_normal.labels(*labels).set(WarningCode.LEVEL_BELOW_NORMAL in codes)
        self._last_clip.labels(*labels).set(time.time())

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)


def _device_labels(device: DeviceInfo) -> tuple[str, str, str]:
    return str(device.requested), str(device.running), str(device.fallback).lower()


class _Targets(Collector):
    """`earwitness_target_samples_age_seconds` and `earwitness_target_state`, computed when they are scraped."""

    def __init__(self) -> None:
        self.registered: Registered | None = None
        self.sections: Sequence[SectionKey] = ()

    def collect(self) -> Iterable[Metric]:
        ages = GaugeMetricFamily(
            "earwitness_target_samples_age_seconds",
            "Since the target clips in force were registered.",
            labels=SECTION_LABELS,
        )
        states = GaugeMetricFamily(
            "earwitness_target_state",
            "1 while the registrations are surely those of the database, 0 while they are the last known.",
            labels=SECTION_LABELS,
        )
        if self.registered is not None:
            registered_at = {one.key: one.registered_at.timestamp() for one in self.registered.all}
            for key, at in registered_at.items():
                ages.add_metric(section_labels(key, Domain.TARGET), max(0.0, time.time() - at))
            for key in sorted({*self.sections, *registered_at}):
                states.add_metric(
                    section_labels(key, Domain.TARGET), float(self.registered.state is TargetState.CURRENT)
                )
        yield ages
        yield states
