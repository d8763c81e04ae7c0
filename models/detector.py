"""The detector: from a clip to an assessment with every term, exactly as it is served, measured and calibrated.

The way of a clip is `Detector.analyse` (decoded sound to features), `Detector.encode` (features to embeddings, of
several clips at once), `Detector.rate` (embeddings to scores, likewise) and `Detector.assess` (scores to an answer);
`Detector.score` walks all of it. A detector never changes once it is made, and any number of threads may use it at
once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models.appraisal import Appraisal, appraise
from models.assessment import Assessment, ClipFacts, SystemAssessment, WindowScore, notices
from models.audio import MAX_CLIP_S, Clip, decode, window_starts_s, windows
from models.bundle import Bundle, CalibrationKey, Canary, read_bundle
from models.decision import Calibration, decide, deviation, p_value
from models.encoder import Device, DeviceInfo
from models.errors import (
    BundleFormatError,
    CanaryError,
    NoTargetClips,
    TargetClipsError,
    UnknownMachineType,
    UnknownSection,
)
from models.explanation import Explanation, explain
from models.frontend import log_mel, temporal_maximum
from models.fused_systems import FusedSystems
from models.manifest import FILE_NAME
from models.mixture_system import MixtureSystem
from models.networks import Networks
from models.statistics import log_mel_and_statistics
from models.systems import Embeddings, Features, Inputs, SystemScores, TargetModel, Way, WindowScores
from models.vocabulary import Domain, SectionKey

CANARY_TOLERANCE: Final = 1e-4
"""Largest relative difference of a canary's score that counts as reproduced."""
MIN_TARGET_CLIPS: Final = 3
MAX_TARGET_CLIPS: Final = 50

WAYS: Mapping[tuple[frozenset[str], str | None], Callable[[Bundle], Way]] = MappingProxyType(
    {
        (frozenset({"adacos_resnet"}), None): MixtureSystem,
        (frozenset({"statistics_networks", "dynamics"}), "p_values"): FusedSystems,
        (frozenset({"statistics_networks", "dynamics", "adacos_resnet"}), "p_values"): FusedSystems,
        (frozenset({"dynamics"}), "p_values"): FusedSystems,
    }
)
"""What runs the systems that a manifest names, with the fusion that it names."""


class Detector:
    """A bundle on a device, ready to score.

    Parameters
    ----------
    bundle : read from its folder, or made in memory.
    device, threads : see `Encoder`.
    false_alarm_rate : the share of a section's normal clips that may lie above its threshold; None keeps the bundle's.

    Raises
    ------
    BundleFormatError : for a system or a network that cannot be run.
    BundleError : where this machine does not compute in the precision of the bundle's networks.
    DeviceUnavailable : where the device asked for cannot run it.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = Device.AUTO,
        threads: int | None = None,
        false_alarm_rate: Callable[[SectionKey], float] | None = None,
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.front_end = manifest.front_end.spec()
        self._mean = np.array(manifest.standardisation.mean)
        self._deviation = np.array(manifest.standardisation.deviation)
        self._rates = {key: None if false_alarm_rate is None else false_alarm_rate(key) for key in manifest.sections}
        self._way = _way(bundle)
        self.calibrations: Mapping[CalibrationKey, Calibration] = {
            (key, domain): self._at_rate(key, one.calibration) for (key, domain), one in bundle.calibrations.items()
        }
        self._bundle_targets = {key: self._bundle_target(key) for key in manifest.sections}
        self._networks = Networks(bundle, device=device, threads=threads)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: Device = Device.AUTO,
        threads: int | None = None,
        false_alarm_rate: Callable[[SectionKey], float] | None = None,
        public_key: Path | None = None,
    ) -> Self:
        """Read a bundle's folder (or a symbolic link to one), check it, and open it on ``device``.

        With the file of a ``public_key``, only a bundle that its owner has signed.
        """
        return cls(
            read_bundle(folder, public_key=public_key),
            device=device,
            threads=threads,
            false_alarm_rate=false_alarm_rate,
        )

    def close(self) -> None:
        """Give back the threads; nothing more can be encoded."""
        self._networks.close()

    @property
    def device(self) -> DeviceInfo:
        """What was asked for, and what the networks really run on; a bundle without networks runs on the CPU."""
        return self._networks.device

    @property
    def sections(self) -> tuple[SectionKey, ...]:
        """Every section of the bundle, in sorted order."""
        return self.bundle.manifest.sections

    def members_of(self, machine_type: str) -> tuple[int, ...]:
        """Which members score ``machine_type``; clips of types with the same members can be encoded together."""
        return self.bundle.manifest.members_of(machine_type)

    def find(self, machine_type: str, section: str) -> SectionKey:
        """The key of a section by its names; raises `UnknownMachineType` and `UnknownSection`, which name the known."""
        machine_types = self.bundle.manifest.machine_types
        if machine_type not in machine_types:
            raise UnknownMachineType(machine_type, sorted(machine_types))
        if section not in machine_types[machine_type].sections:
            raise UnknownSection(machine_type, section, sorted(machine_types[machine_type].sections))
        return SectionKey(machine_type, section)

    def decode(self, source: bytes | Path, *, max_clip_s: float = MAX_CLIP_S) -> Clip:
        """Decode a clip as the bundle's recordings were: the same channel of several. Raises `AudioError`."""
        return decode(source, channel=self.front_end.channel, max_clip_s=max_clip_s)

    def analyse(self, clip: Clip) -> Features:
        """The features of each ten-second window of a clip."""
        return self._features(windows(clip.waveform))

    def inputs(self, features: Features) -> Inputs:
        """What the networks hear of a clip's windows; those of several clips may be joined."""
        return self._way.inputs(features)

    def encode(self, inputs: Inputs, machine_type: str) -> Embeddings:
        """Embed windows, of one clip or of several that need the same networks.

        Raises
        ------
        BundleError : where a network gives NaN or infinity, on which nothing could be decided.
        """
        return self.encode_by(inputs, self.members_of(machine_type))

    def encode_by(self, inputs: Inputs, members: Sequence[int], free: Callable[[], None] | None = None) -> Embeddings:
        """As `encode`, by networks of one's choice, for sections that the bundle does not know.

        ``free``: as of `Encoder.encode`, for the last of the networks.
        """
        return self._networks.encode(inputs, members, free)

    def fit_target(
        self, key: SectionKey, features: Features, embeddings: Embeddings, levels_dbfs: Sequence[float]
    ) -> TargetModel:
        """Model the target domain of a section by a few of its normal clips, without training.

        Parameters
        ----------
        features, embeddings : of the first window of each clip, together.
        levels_dbfs : of the clips.

        Raises
        ------
        TargetClipsError : for fewer than 3 clips or more than 50.
        """
        if not MIN_TARGET_CLIPS <= len(levels_dbfs) <= MAX_TARGET_CLIPS:
            raise TargetClipsError(
                f"{len(levels_dbfs)} target clips were given; {MIN_TARGET_CLIPS} to {MAX_TARGET_CLIPS} are needed."
            )
        model = self._way.fit_target(key, features, embeddings, min(levels_dbfs))
        return replace(model, calibration=self._at_rate(key, model.calibration))

    def appraise(
        self, key: SectionKey, clips: Sequence[Clip], features: Features, embeddings: Embeddings
    ) -> tuple[Appraisal, ...]:
        """Say how well each of a few target clips stands for the section's changed condition.

        ``features``, ``embeddings``: as of `fit_target`.
        """
        source = self.calibrations[key, Domain.SOURCE].scores
        scores = self.rate(key, Domain.SOURCE, features, embeddings).decision.tolist()
        return appraise(
            clips,
            self._way.spacings(key, features, embeddings),
            self._way.usual_spacing(key),
            [deviation(score, source) for score in scores],
            float(self.bundle.calibrations[key, Domain.SOURCE].level_quantiles_dbfs[0]),
        )

    def bundle_target(self, key: SectionKey) -> TargetModel | None:
        """The target domain as the bundle was trained with it; None where it had too few target clips there."""
        return self._bundle_targets[key]

    def rate(
        self,
        key: SectionKey,
        domain: Domain,
        features: Features,
        embeddings: Embeddings,
        *,
        target: TargetModel | None = None,
    ) -> WindowScores:
        """Score windows, of one clip or of several of one section, domain and target.

        Parameters
        ----------
        embeddings : of the ``features``.
        target : the target clips to compare with in domain target; None takes those of the bundle.

        Raises
        ------
        NoTargetClips : for domain target without any.
        """
        return self._way.score(key, domain, features, embeddings, self._target(key, domain, target))

    def assess(
        self,
        key: SectionKey,
        domain: Domain,
        clip: Clip,
        scores: WindowScores,
        *,
        target: TargetModel | None = None,
    ) -> Assessment:
        """Say how anomalous a clip is; the score of a long clip is the mean over its windows.

        ``scores``: of its windows, by `rate` with the same ``target``.
        """
        target = self._target(key, domain, target)
        if target is not None:
            calibration, lowest_level_dbfs = target.calibration, target.lowest_level_dbfs
        else:
            calibration = self.calibrations[key, domain]
            lowest_level_dbfs = float(self.bundle.calibrations[key, domain].level_quantiles_dbfs[0])
        score = float(np.mean(scores.decision))
        rarity = p_value(score, calibration.scores)
        starts_s = window_starts_s(len(clip.waveform))
        return Assessment(
            machine_type=key.machine_type,
            section=key.section,
            domain=domain,
            decision=decide(score, calibration.threshold),
            anomaly_score=float(np.mean(scores.anomaly)),
            decision_score=score,
            threshold=calibration.threshold,
            threshold_rule=calibration.rule,
            p_value=rarity,
            calibration_clips=len(calibration.scores),
            deviation=deviation(score, calibration.scores),
            systems={name: _system_assessment(one, rarity) for name, one in scores.systems.items()},
            window_scores=tuple(map(WindowScore, starts_s, scores.decision.tolist())) if len(starts_s) > 1 else None,
            clip=ClipFacts(
                duration_s=clip.duration_s,
                sample_rate_hz=clip.sample_rate_hz,
                channels=clip.channels,
                level_dbfs=clip.level_dbfs,
                sha256=clip.sha256,
                windows=len(starts_s),
            ),
            warnings=notices(
                clip,
                calibration,
                lowest_level_dbfs,
                target_clips=None if target is None else target.clips,
                false_alarm_rate=self._rates[key],
                demonstration=self.bundle.manifest.demonstration,
            ),
        )

    def explain(
        self, key: SectionKey, domain: Domain, clip: Clip, features: Features, scores: WindowScores
    ) -> Explanation:
        """Say what deviates most, of a clip of several windows in the most anomalous one; ``scores`` as of `assess`."""
        place = int(np.argmax(scores.decision))
        statistics = None if features.statistics is None else features.statistics.statics_and_dynamics[place]
        return explain(
            features.log_mels[place],
            statistics,
            self._way.normal(key, domain),
            start_s=window_starts_s(len(clip.waveform))[place],
            nearest_attribute=self._way.nearest_attribute(key, scores.of(slice(place, place + 1)), statistics),
        )

    def score(
        self, clip: Clip, machine_type: str, section: str, domain: Domain, *, target: TargetModel | None = None
    ) -> Assessment:
        """All the way from a decoded clip to its assessment."""
        key = self.find(machine_type, section)
        features = self.analyse(clip)
        embeddings = self.encode(self.inputs(features), machine_type)
        scores = self.rate(key, domain, features, embeddings, target=target)
        return self.assess(key, domain, clip, scores, target=target)

    def record_canary(self, waveforms: NDArray[np.float32], key: SectionKey, domain: Domain) -> Canary:
        """The canary to write into the bundle: two ten-second waveforms, (2, 160000), with their anomaly scores."""
        return Canary(waveforms, key, domain, self._anomaly_scores(waveforms, key, domain))

    def check_canary(self) -> None:
        """Raise `CanaryError` where the bundle's canary does not get the scores it was written with, to 1e-4."""
        canary = self.bundle.canary
        if canary is None:
            raise CanaryError(self.bundle.path_of("canary.npz"), "the bundle has no canary. Write it with one.")
        found = self._anomaly_scores(canary.waveforms, canary.key, canary.domain)
        allowed = CANARY_TOLERANCE * np.maximum(1.0, np.abs(canary.expected))
        if not (np.abs(found - canary.expected) <= allowed).all():
            raise CanaryError(
                self.bundle.path_of("canary.npz"),
                f"the canary scores {found.tolist()} here, but {canary.expected.tolist()} where the bundle was made. "
                "Do not trust its answers on this machine: try device=cpu, or the onnxruntime version in its manifest.",
            )

    def _target(self, key: SectionKey, domain: Domain, given: TargetModel | None) -> TargetModel | None:
        """The target clips to compare with, the bundle's where none are given; None in the source domain."""
        if domain is Domain.SOURCE:
            return None
        target = given or self.bundle_target(key)
        if target is None:
            raise NoTargetClips(key.machine_type, key.section)
        return target

    def _bundle_target(self, key: SectionKey) -> TargetModel | None:
        model = self._way.bundle_target(key)
        return None if model is None else replace(model, calibration=self.calibrations[key, Domain.TARGET])

    def _at_rate(self, key: SectionKey, calibration: Calibration) -> Calibration:
        """The threshold that the section's false-alarm rate asks for."""
        rate = self._rates[key]
        return calibration if rate is None else calibration.at(rate)

    def _features(self, waveforms: NDArray[np.float32]) -> Features:
        if self._way.needs_statistics:
            log_mels, statistics = log_mel_and_statistics(waveforms, self.front_end)
        else:
            log_mels, statistics = log_mel(waveforms, self.front_end), None
        return Features(log_mels, temporal_maximum(log_mels, self._mean, self._deviation), statistics)

    def _anomaly_scores(self, waveforms: NDArray[np.float32], key: SectionKey, domain: Domain) -> NDArray[np.float64]:
        features = self._features(waveforms)
        embeddings = self.encode(self.inputs(features), key.machine_type)
        return self.rate(key, domain, features, embeddings).anomaly


def _way(bundle: Bundle) -> Way:
    systems, fusion = bundle.manifest.systems, bundle.manifest.fusion
    way = WAYS.get((frozenset(systems), fusion))
    if way is None:
        known = "; ".join(f"{' + '.join(sorted(names))}, fusion {rule!r}" for names, rule in WAYS)
        raise BundleFormatError(
            bundle.path_of(FILE_NAME),
            f"systems {' + '.join(systems)}, fusion {fusion!r}: this Earwitness runs {known}. Use a later release.",
        )
    return way(bundle)


def _system_assessment(scores: SystemScores, rarity: float | None) -> SystemAssessment:
    return SystemAssessment(
        score=float(np.mean(scores.anomaly)),
        p_value=rarity if scores.p_value is None else float(np.mean(scores.p_value)),
        terms={name: None if term is None else float(np.mean(term)) for name, term in scores.terms.items()},
    )
