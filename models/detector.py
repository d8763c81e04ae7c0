"""The detector: from a clip to an assessment with every term, exactly as it is served, measured and calibrated.

The way of a clip is `Detector.analyse` (decoded sound to features), `Detector.encode` (features to embeddings, which
may be those of several clips at once) and `Detector.assess` (embeddings to an answer); `Detector.score` walks all of
it. A detector never changes once it is made, and any number of threads may use it at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from models.assessment import Assessment, ClipFacts, SystemAssessment, WindowScore, notices
from models.audio import MAX_CLIP_S, Clip, decode, window_starts_s, windows
from models.bundle import Bundle, Canary, embedder_path, read_bundle
from models.decision import Calibration, decide, deviation, p_value
from models.encoder import Device, DeviceInfo, Encoder, InvalidEmbedder
from models.errors import (
    BundleError,
    BundleFormatError,
    CanaryError,
    NoTargetClips,
    TargetClipsError,
    UnknownMachineType,
    UnknownSection,
)
from models.frontend import log_mel, temporal_maximum
from models.manifest import FILE_NAME
from models.scoring import Normality, decision_score, score_section
from models.systems import SYSTEMS, Features, System, SystemScores
from models.targets import target_normality
from models.vocabulary import Domain, SectionKey, ThresholdRule

CANARY_TOLERANCE: Final = 1e-4
"""Largest relative difference of a canary's score that counts as reproduced."""
MIN_TARGET_CLIPS: Final = 3
MAX_TARGET_CLIPS: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class TargetModel:
    """What a section's target-domain clips say: those the bundle was trained with, or those registered since.

    ``mixtures``: one a member, a component a clip; or references, each clip one. ``calibration``: of the first term
    over these clips. ``lowest_level_dbfs``: the quietest clip's level, None where it is not known.
    """

    mixtures: tuple[Normality, ...]
    calibration: Calibration
    lowest_level_dbfs: float | None


class Detector:
    """A bundle on a device, ready to score.

    Parameters
    ----------
    bundle : read from its folder, or made in memory.
    device, threads : see `Encoder`.

    Raises
    ------
    BundleFormatError : for a system or a network that cannot be run.
    DeviceUnavailable : where the device asked for cannot run it.
    """

    def __init__(self, bundle: Bundle, *, device: Device = Device.AUTO, threads: int | None = None) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.front_end = manifest.front_end.spec()
        self._mean = np.array(manifest.standardisation.mean)
        self._deviation = np.array(manifest.standardisation.deviation)
        self._systems = _systems(bundle)
        embedders = [bundle.embedders[member.file] for member in manifest.members]
        try:
            self._encoder = Encoder(embedders, device=device, threads=threads)
        except InvalidEmbedder as error:
            path = bundle.path_of(embedder_path(manifest.members[error.member].file))
            raise BundleFormatError(path, f"{error}. Get the bundle again, or export its networks again.") from error

    @classmethod
    def load(cls, folder: Path, *, device: Device = Device.AUTO, threads: int | None = None) -> Self:
        """Read a bundle's folder (or a symbolic link to one), check it, and open it on ``device``."""
        return cls(read_bundle(folder), device=device, threads=threads)

    def close(self) -> None:
        """Give back the threads; nothing more can be encoded."""
        self._encoder.close()

    @property
    def device(self) -> DeviceInfo:
        """What was asked for, and what the networks really run on."""
        return self._encoder.device

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
        return self._features(windows(clip.waveform), clip.level_dbfs)

    def encode(self, log_mels: NDArray[np.float32], machine_type: str) -> NDArray[np.float32]:
        """Embed windows, of one clip or of several: (windows, 313, 128) dB -> (windows, members of the type, 128).

        Raises
        ------
        BundleError : where a network gives NaN or infinity, on which nothing could be decided.
        """
        embeddings = self._encoder.encode(log_mels, self.members_of(machine_type))
        if not np.isfinite(embeddings).all():
            raise BundleError(
                self.bundle.path_of("embedders"),
                f"the networks of {machine_type!r} give NaN or infinity for a finite clip. Train the bundle again.",
            )
        return embeddings

    def fit_target(self, key: SectionKey, embeddings: NDArray[np.float32], levels_dbfs: Sequence[float]) -> TargetModel:
        """Model the target domain of a section by a few of its normal clips, in closed form (paper 2.6).

        Parameters
        ----------
        embeddings : (clips, members, 128), of the first window of each clip.
        levels_dbfs : of the clips.

        Raises
        ------
        TargetClipsError : for fewer than 3 clips or more than 50.
        """
        if not MIN_TARGET_CLIPS <= len(embeddings) <= MAX_TARGET_CLIPS:
            raise TargetClipsError(
                f"{len(embeddings)} target clips were given; {MIN_TARGET_CLIPS} to {MAX_TARGET_CLIPS} are needed."
            )
        model, synthetic = self.bundle.sections[key], self.bundle.manifest.target_smote
        mixtures = tuple(
            target_normality(member.section, x, synthetic=synthetic)
            for member, x in zip(model.members, np.moveaxis(embeddings, 1, 0), strict=True)
        )
        terms = score_section(model, embeddings, None, Domain.TARGET, mixtures)
        percentile = self.bundle.calibrations[key, Domain.SOURCE].calibration.percentile
        calibration = Calibration.from_scores(decision_score(terms, Domain.TARGET), ThresholdRule.PAPER, percentile)
        return TargetModel(mixtures, calibration, min(levels_dbfs))

    def bundle_target(self, key: SectionKey) -> TargetModel | None:
        """The target domain as the bundle was trained with it; None where it had no target clips for this section."""
        mixtures = tuple(member.target for member in self.bundle.sections[key].members if member.target is not None)
        calibrated = self.bundle.calibrations.get((key, Domain.TARGET))
        if calibrated is None or len(mixtures) < len(self.bundle.sections[key].members):
            return None
        return TargetModel(mixtures, calibrated.calibration, float(calibrated.level_quantiles_dbfs[0]))

    def assess(
        self,
        key: SectionKey,
        domain: Domain,
        clip: Clip,
        features: Features,
        embeddings: NDArray[np.float32],
        *,
        target: TargetModel | None = None,
    ) -> Assessment:
        """Say how anomalous a clip is; the score of a long clip is the mean over its windows.

        Parameters
        ----------
        embeddings : (windows, members, 128) of the clip's ``features``.
        target : the target clips to compare with in domain target; None takes those of the bundle.

        Raises
        ------
        NoTargetClips : for domain target without any.
        """
        calibration, lowest_level_dbfs, mixtures = self._reference(key, domain, target)
        scores = {
            name: system.score(key, domain, features, embeddings, mixtures) for name, system in self._systems.items()
        }
        (whole,) = scores.values()  # several systems are fused by the rule that the manifest names
        score = float(np.mean(whole.decision))
        rarity = p_value(score, calibration.scores)
        starts_s = window_starts_s(len(clip.waveform))
        return Assessment(
            machine_type=key.machine_type,
            section=key.section,
            domain=domain,
            decision=decide(score, calibration.threshold),
            anomaly_score=float(np.mean(whole.anomaly)),
            decision_score=score,
            threshold=calibration.threshold,
            threshold_rule=calibration.rule,
            p_value=rarity,
            calibration_clips=len(calibration.scores),
            deviation=deviation(score, calibration.scores),
            systems={name: _system_assessment(one, rarity) for name, one in scores.items()},
            window_scores=tuple(map(WindowScore, starts_s, whole.decision.tolist())) if len(starts_s) > 1 else None,
            clip=ClipFacts(
                duration_s=clip.duration_s,
                sample_rate_hz=clip.sample_rate_hz,
                channels=clip.channels,
                level_dbfs=clip.level_dbfs,
                sha256=clip.sha256,
                windows=len(starts_s),
            ),
            warnings=notices(clip, calibration, lowest_level_dbfs, demonstration=self.bundle.manifest.demonstration),
        )

    def score(
        self, clip: Clip, machine_type: str, section: str, domain: Domain, *, target: TargetModel | None = None
    ) -> Assessment:
        """All the way from a decoded clip to its assessment."""
        key = self.find(machine_type, section)
        features = self.analyse(clip)
        return self.assess(key, domain, clip, features, self.encode(features.log_mels, machine_type), target=target)

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

    def _features(self, waveforms: NDArray[np.float32], level_dbfs: float) -> Features:
        log_mels = log_mel(waveforms, self.front_end)
        return Features(log_mels, temporal_maximum(log_mels, self._mean, self._deviation), level_dbfs)

    def _reference(
        self, key: SectionKey, domain: Domain, target: TargetModel | None
    ) -> tuple[Calibration, float | None, tuple[Normality, ...] | None]:
        """What a clip is compared with: calibration scores, the lowest normal level, target mixtures."""
        if domain is Domain.SOURCE:
            calibrated = self.bundle.calibrations[key, domain]
            return calibrated.calibration, float(calibrated.level_quantiles_dbfs[0]), None
        target = target or self.bundle_target(key)
        if target is None:
            raise NoTargetClips(key.machine_type, key.section)
        return target.calibration, target.lowest_level_dbfs, target.mixtures

    def _anomaly_scores(self, waveforms: NDArray[np.float32], key: SectionKey, domain: Domain) -> NDArray[np.float64]:
        features = self._features(waveforms, level_dbfs=0.0)
        embeddings = self.encode(features.log_mels, key.machine_type)
        _, _, mixtures = self._reference(key, domain, None)
        (scores,) = (system.score(key, domain, features, embeddings, mixtures) for system in self._systems.values())
        return scores.anomaly


def _systems(bundle: Bundle) -> Mapping[str, System]:
    names = bundle.manifest.systems
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown or len(names) > 1 or bundle.manifest.fusion is not None:
        raise BundleFormatError(
            bundle.path_of(FILE_NAME),
            f"systems {', '.join(names)} with fusion {bundle.manifest.fusion!r}: this Earwitness runs one of "
            f"{', '.join(SYSTEMS)}, without fusion. Use a later release.",
        )
    return {name: SYSTEMS[name](bundle) for name in names}


def _system_assessment(scores: SystemScores, rarity: float | None) -> SystemAssessment:
    return SystemAssessment(
        score=float(np.mean(scores.anomaly)),
        p_value=rarity,
        terms={name: None if term is None else float(np.mean(term)) for name, term in scores.terms.items()},
    )
