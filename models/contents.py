"""What a bundle holds beside its manifest and its networks, and the bytes it is kept as.

Each kind has one function to bytes and one from bytes; the latter names the file where the content is not what it must
be. Equal content gives equal bytes.
"""

import io
import json
import math
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES
from models.compact import CompactSection, Heard, Whitening
from models.decision import Calibration
from models.encoder import EMBEDDING_SIZE
from models.errors import BundleFormatError
from models.frontend import N_MELS
from models.fusion import Spread
from models.manifest import Manifest
from models.mixtures import Mixture
from models.references import REFERENCE_ARRAYS, References
from models.scoring import MemberModel, Normality, SectionModel, side_by_side
from models.unpickling import dumps, loads
from models.vocabulary import Domain, SectionKey, SubSystem, ThresholdRule

LEVEL_QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of the level of a section's training clips; the first is the lowest level, the fourth the median."""

CalibrationKey = tuple[SectionKey, Domain]

_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, MemoryError, zipfile.BadZipFile)
"""What numpy, json and the constructors raise for content that is not what it must be."""


@dataclass(frozen=True, slots=True, eq=False)
class SectionCalibration:
    """What a section's normal clips of one domain are like.

    ``mel_mean``, ``mel_deviation``: (128,) float64 dB, of each mel band. ``level_quantiles_dbfs``: (7,) float64, the
    clips' levels at `LEVEL_QUANTILES`.
    """

    calibration: Calibration
    mel_mean: NDArray[np.float64]
    mel_deviation: NDArray[np.float64]
    level_quantiles_dbfs: NDArray[np.float64]

    def __post_init__(self) -> None:
        shapes = {
            "mel_mean": (self.mel_mean, N_MELS),
            "mel_deviation": (self.mel_deviation, N_MELS),
            "level_quantiles_dbfs": (self.level_quantiles_dbfs, len(LEVEL_QUANTILES)),
        }
        for name, (values, length) in shapes.items():
            if values.shape != (length,) or not np.isfinite(values).all():
                raise ValueError(f"{name} must be {length} finite values, not shape {values.shape}")


@dataclass(frozen=True, slots=True, eq=False)
class Canary:
    """Two ten-second waveforms, (2, 160000) float32, and the anomaly scores, (2,) float64, they must be given."""

    waveforms: NDArray[np.float32]
    key: SectionKey
    domain: Domain
    expected: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.waveforms.shape != (2, CLIP_SAMPLES) or self.expected.shape != (2,):
            raise ValueError(f"a canary is two ten-second waveforms with a score each, not {self.waveforms.shape}")


def encode_section(model: SectionModel | CompactSection) -> bytes:
    """What scores one section as a pickle of plain containers of arrays."""
    return dumps(_compact_arrays(model) if isinstance(model, CompactSection) else _mixture_arrays(model))


def decode_section(content: bytes, path: Path, manifest: Manifest, key: SectionKey) -> SectionModel | CompactSection:
    """What scores the section ``key`` of ``manifest``; raises `UnsafePickle` and `BundleFormatError`."""
    value = loads(content, path)
    try:
        model = _mixture_section(value) if manifest.fusion is None else _compact_section(value)
        check_section(model, manifest, key)
    except _MALFORMED as error:
        raise _malformed(path, "mixtures" if manifest.fusion is None else "references", error) from error
    return model


def check_section(model: SectionModel | CompactSection, manifest: Manifest, key: SectionKey) -> None:
    """Raise ValueError where a section is not scored by the networks that the manifest names."""
    if isinstance(model, SectionModel):
        found, expected = len(model.members), len(manifest.members_of(key.machine_type))
        if found != expected:
            raise ValueError(f"{key} has mixtures of {found} members where {expected} score the machine type")
        return
    for kind, embeddings in model.heard.embeddings.items():
        networks = sum(network.kind is kind for network in manifest.fold_networks)
        if embeddings.shape[1:] != (networks, EMBEDDING_SIZE):
            raise ValueError(f"{key} has {kind.value} embeddings {embeddings.shape}, the manifest {networks} networks")


def _mixture_arrays(model: SectionModel) -> dict[str, Any]:
    temporal = model.temporal_maximum
    return {
        "members": [
            {
                "section": _arrays(member.section),
                "attributes": _named(member.attributes),
                "target": None if member.target is None else _arrays(member.target),
            }
            for member in model.members
        ],
        "temporal_maximum": None if temporal is None else _named(temporal),
    }


def _mixture_section(value: Any) -> SectionModel:
    temporal = value["temporal_maximum"]
    members = tuple(
        MemberModel(
            section=_normality(member["section"]),
            attributes=_mixtures(member["attributes"]),
            target=None if member["target"] is None else _normality(member["target"]),
        )
        for member in value["members"]
    )
    return SectionModel(
        members=side_by_side(members), temporal_maximum=None if temporal is None else _mixtures(temporal)
    )


def _compact_arrays(model: CompactSection) -> dict[str, Any]:
    return {
        "attribute_of": np.asarray(model.attribute_of, np.int64),
        "attributes": list(model.attributes),
        "counted": [kind.value for kind in model.counted],
        "embeddings": {
            kind.value: np.ascontiguousarray(own, np.float32) for kind, own in sorted(model.heard.embeddings.items())
        },
        "folds": np.asarray(model.folds, np.int64),
        "is_target": np.asarray(model.is_target, bool),
        "spreads": {
            kind.value: np.array([one.mean, one.deviation, one.clips]) for kind, one in sorted(model.spreads.items())
        },
        "statistics": np.ascontiguousarray(model.heard.statistics, np.float32),
        "whitenings": [
            {
                "directions": np.ascontiguousarray(one.directions, np.float32),
                "floor": float(one.floor),
                "scale": np.asarray(one.scale, np.float64),
                "variances": np.asarray(one.variances, np.float64),
            }
            for one in model.whitenings
        ],
    }


def _compact_section(value: Any) -> CompactSection:
    return CompactSection(
        heard=Heard(
            {SubSystem(kind): _finite(own) for kind, own in value["embeddings"].items()}, _finite(value["statistics"])
        ),
        folds=value["folds"],
        is_target=value["is_target"],
        attributes=tuple(value["attributes"]),
        attribute_of=value["attribute_of"],
        whitenings=tuple(
            Whitening(one["scale"], one["floor"], _finite(one["directions"]), one["variances"])
            for one in value["whitenings"]
        ),
        spreads={SubSystem(kind): Spread(float(m), float(s), int(n)) for kind, (m, s, n) in value["spreads"].items()},
        counted=tuple(map(SubSystem, value["counted"])),
    )


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinity among the references")
    return values


def encode_calibrations(calibrations: Mapping[CalibrationKey, SectionCalibration]) -> bytes:
    """All calibrations as one ``.npz``: arrays named ``machine type/section/domain/what``."""
    arrays: dict[str, NDArray[Any]] = {}
    for (key, domain), one in sorted(calibrations.items()):
        prefix = _prefix(key, domain)
        arrays[prefix + "scores"] = np.asarray(one.calibration.scores, np.float64)
        arrays[prefix + "rule"] = np.array(one.calibration.rule.value)
        arrays[prefix + "percentile"] = np.array(one.calibration.percentile, np.float64)
        if one.calibration.ranked:
            arrays[prefix + "ranked"] = np.array(one.calibration.ranked)
        if one.calibration.folds is not None:
            arrays[prefix + "folds"] = np.asarray(one.calibration.folds, np.int64)
        arrays[prefix + "mel_mean"] = np.asarray(one.mel_mean, np.float64)
        arrays[prefix + "mel_deviation"] = np.asarray(one.mel_deviation, np.float64)
        arrays[prefix + "level_quantiles_dbfs"] = np.asarray(one.level_quantiles_dbfs, np.float64)
    return _npz(arrays)


def decode_calibrations(
    content: bytes, path: Path, keys: Collection[CalibrationKey]
) -> dict[CalibrationKey, SectionCalibration]:
    """The calibrations of ``keys``, which must be all there are."""
    calibrations: dict[CalibrationKey, SectionCalibration] = {}
    try:
        arrays = _from_npz(content)
        for key, domain in sorted(keys):
            prefix = _prefix(key, domain)
            calibrations[key, domain] = SectionCalibration(
                calibration=Calibration.from_scores(
                    arrays.pop(prefix + "scores"),
                    ThresholdRule(str(arrays.pop(prefix + "rule"))),
                    float(arrays.pop(prefix + "percentile")),
                    ranked=bool(arrays.pop(prefix + "ranked", False)),
                    folds=arrays.pop(prefix + "folds", None),
                ),
                mel_mean=arrays.pop(prefix + "mel_mean"),
                mel_deviation=arrays.pop(prefix + "mel_deviation"),
                level_quantiles_dbfs=arrays.pop(prefix + "level_quantiles_dbfs"),
            )
        if arrays:
            raise ValueError(f"an unexpected array {min(arrays)!r}")
    except _MALFORMED as error:
        raise _malformed(path, "calibrations", error) from error
    return calibrations


def encode_thresholds(calibrations: Mapping[CalibrationKey, SectionCalibration]) -> bytes:
    """The thresholds for people to read, derived from the calibrations."""
    return (json.dumps(_thresholds(calibrations), indent=1, allow_nan=False) + "\n").encode()


def check_thresholds(content: bytes, path: Path, calibrations: Mapping[CalibrationKey, SectionCalibration]) -> None:
    """Raise `BundleFormatError` where the thresholds people read are not those in force."""
    try:
        stated, derived = json.loads(content), _thresholds(calibrations)
        if len(stated) != len(derived) or not all(map(_same_threshold, stated, derived)):
            raise ValueError("they are not those of calibration.npz")
    except _MALFORMED as error:
        raise _malformed(path, "thresholds", error) from error


def encode_canary(canary: Canary) -> bytes:
    """The canary as one ``.npz``."""
    return _npz(
        {
            "waveforms": np.asarray(canary.waveforms, np.float32),
            "machine_type": np.array(canary.key.machine_type),
            "section": np.array(canary.key.section),
            "domain": np.array(canary.domain.value),
            "expected": np.asarray(canary.expected, np.float64),
        }
    )


def decode_canary(content: bytes, path: Path) -> Canary:
    """The canary; raises `BundleFormatError`."""
    try:
        arrays = _from_npz(content)
        return Canary(
            waveforms=arrays["waveforms"],
            key=SectionKey(str(arrays["machine_type"]), str(arrays["section"])),
            domain=Domain(str(arrays["domain"])),
            expected=arrays["expected"],
        )
    except _MALFORMED as error:
        raise _malformed(path, "canary", error) from error


def _arrays(normality: Normality) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(value, order="C") for name, value in sorted(normality.to_arrays().items())}


def _normality(arrays: Mapping[str, NDArray[Any]]) -> Normality:
    """References name themselves by their arrays; all else must be a mixture."""
    return References.from_arrays(arrays) if set(arrays) == set(REFERENCE_ARRAYS) else Mixture.from_arrays(arrays)


def _named(mixtures: Mapping[str, Mixture]) -> dict[str, dict[str, NDArray[Any]]]:
    return {name: _arrays(mixture) for name, mixture in sorted(mixtures.items())}


def _mixtures(value: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, Mixture]:
    return {name: Mixture.from_arrays(arrays) for name, arrays in value.items()}


def _prefix(key: SectionKey, domain: Domain) -> str:
    return f"{key.machine_type}/{key.section}/{domain.value}/"


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _from_npz(content: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _thresholds(calibrations: Mapping[CalibrationKey, SectionCalibration]) -> list[dict[str, Any]]:
    return [
        {
            "machine_type": key.machine_type,
            "section": key.section,
            "domain": domain.value,
            "threshold": one.calibration.threshold,
            "rule": one.calibration.rule.value,
            "percentile": one.calibration.percentile,
            "clips": len(one.calibration.scores),
        }
        for (key, domain), one in sorted(calibrations.items())
    ]


def _same_threshold(stated: dict[str, Any], derived: dict[str, Any]) -> bool:
    """Equal but for the last digits of a percentile, which may differ between versions of numpy."""
    one, other = stated["threshold"], derived["threshold"]
    near = one is other if one is None or other is None else math.isclose(one, other, rel_tol=1e-9)
    return near and {**stated, "threshold": None} == {**derived, "threshold": None}


def _malformed(path: Path, what: str, error: Exception) -> BundleFormatError:
    return BundleFormatError(path, f"these are no {what} of a bundle ({error}). Get the bundle again.")
