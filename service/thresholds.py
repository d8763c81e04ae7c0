"""What stands behind each threshold, as Prometheus reads it: the rate it is set to, and which shares are an alarm.

Computed when it is scraped, since a registration changes what stands behind a section's target domain.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.bundle import CalibrationKey
from models.decision import Calibration
from models.detector import Detector
from models.vocabulary import Domain, SectionKey
from service.alarms import WANDER, alarm_share
from service.registered import Registered

SECTION_LABELS: Final = ("machine_type", "section", "domain")


def section_labels(key: SectionKey, domain: Domain) -> tuple[str, str, str]:
    """The values of `SECTION_LABELS`."""
    return key.machine_type, key.section, domain.value


class Thresholds(Collector):
    """`earwitness_false_alarm_rate` and `earwitness_alarm_share`, of each section and domain that has a threshold."""

    def __init__(self) -> None:
        self.registered: Registered | None = None
        self._calibrations: Mapping[CalibrationKey, Calibration] = {}

    def know_bundle(self, detector: Detector) -> None:
        """Speak of this bundle from now on."""
        self._calibrations = detector.calibrations

    def collect(self) -> Iterable[Metric]:
        """The two metrics."""
        rates = GaugeMetricFamily(
            "earwitness_false_alarm_rate",
            "The share of normal clips that the threshold is set to.",
            labels=SECTION_LABELS,
        )
        shares = GaugeMetricFamily(
            "earwitness_alarm_share",
            "The share of anomalous clips in a window above which a section sounds wrong.",
            labels=(*SECTION_LABELS, "window"),
        )
        for (key, domain), (clips, rate) in self._behind().items():
            labels = section_labels(key, domain)
            rates.add_metric(labels, rate)
            for window in WANDER:
                shares.add_metric((*labels, window), alarm_share(clips, rate, window))
        yield rates
        yield shares

    def _behind(self) -> dict[CalibrationKey, tuple[int, float]]:
        """How many clips stand behind each threshold, and its rate: registered target clips go before the bundle's."""
        found = {
            where: (len(one.scores), _rate(one))
            for where, one in self._calibrations.items()
            if one.threshold is not None
        }
        for registration in () if self.registered is None else self.registered.all:
            source = self._calibrations.get((registration.key, Domain.SOURCE))
            if source is not None:
                found[registration.key, Domain.TARGET] = (len(registration.samples), _rate(source))
        return found


def _rate(calibration: Calibration) -> float:
    return 1.0 - calibration.percentile / 100.0
