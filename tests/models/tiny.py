"""A tiny but real bundle: ONNX embedders made by hand, mixtures fitted on embeddings of generated sound."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.audio import CLIP_SAMPLES, Clip
from models.bundle import LEVEL_QUANTILES, Bundle, CalibrationKey, SectionCalibration
from models.decision import Calibration
from models.detector import Detector
from models.encoder import Device, Encoder
from models.frontend import N_FRAMES, N_MELS, LogMelSpec, log_mel, temporal_maximum
from models.manifest import FrontEnd, Manifest, MemberEntry, Standardisation
from models.mixtures import Mixture, clip_mixture, fit_mixture
from models.scoring import MemberModel, SectionModel, decision_score, score_section
from models.vocabulary import Domain, LossChoice, SectionKey, ThresholdRule

FAN = SectionKey("fan", "00")
"""Scored by both members; has target clips."""
VALVE = SectionKey("valve", "line-3.b")
"""Scored by the second member only, with temporal maxima; has no target clips."""
N_CLIPS = 10
MEAN, DEVIATION = np.full(N_MELS, -60.0), np.full(N_MELS, 12.0)


def sound(key: SectionKey, seed: int, *, domain: Domain = Domain.SOURCE, seconds: float = 10.0) -> NDArray[np.float32]:
    """A machine's hum in noise: its pitch belongs to the section and the domain."""
    random = np.random.default_rng([seed, len(key.machine_type), len(domain)])
    pitch_hz = {"fan": 300.0, "valve": 1100.0}[key.machine_type] * (1.0 if domain is Domain.SOURCE else 1.6)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    hum = sum(np.sin(2 * np.pi * pitch_hz * k * time_s + random.uniform(0, 6)) / k for k in (1, 2, 3))
    level = random.uniform(0.05, 0.1)
    return (level * hum + random.normal(0, 0.01, len(time_s))).astype(np.float32)


def as_clip(waveform: NDArray[np.float32], **facts: float) -> Clip:
    """A clip as `decode` makes it, of a mono 16 kHz recording."""
    given = {
        "sample_rate_hz": 16_000,
        "channels": 1,
        "clipped_share": 0.0,
        "level_dbfs": 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64))),
        **facts,
    }
    return Clip(
        waveform=waveform,
        duration_s=len(waveform) / 16_000,
        sample_rate_hz=int(given["sample_rate_hz"]),
        channels=int(given["channels"]),
        level_dbfs=float(given["level_dbfs"]),
        clipped_share=float(given["clipped_share"]),
        sha256="0" * 64,
    )


def embedder(seed: int, *, output: int = 128) -> bytes:
    """An ONNX embedder, (clips, 313, 128) -> (clips, 128): standardise, mean and maximum over time, two layers."""
    random = np.random.default_rng(seed)
    constants = {
        "mean": MEAN.astype(np.float32),
        "deviation": DEVIATION.astype(np.float32),
        "time": np.array([1], np.int64),
        "first": random.normal(0, 0.1, (2 * N_MELS, 64)).astype(np.float32),
        "second": random.normal(0, 0.1, (64, output)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Sub", ["log_mel", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["standard"]),
        helper.make_node("ReduceMean", ["standard", "time"], ["average"], keepdims=0),
        helper.make_node("ReduceMax", ["standard", "time"], ["loudest"], keepdims=0),
        helper.make_node("Concat", ["average", "loudest"], ["pooled"], axis=1),
        helper.make_node("MatMul", ["pooled", "first"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["bent"]),
        helper.make_node("MatMul", ["bent", "second"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["clips", N_FRAMES, N_MELS])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["clips", output])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def build_bundle(*, demonstration: bool = False) -> Bundle:
    """The bundle in memory, without its canary: `fan` 00 with target clips, `valve` line-3.b without."""
    files = {"both-heads-s2-e0004.onnx": embedder(1), "sections-s2-e0004.onnx": embedder(2)}
    encoder = Encoder(list(files.values()), device=Device.CPU, threads=1)
    source = {key: log_mel(np.stack([sound(key, i) for i in range(N_CLIPS)])) for key in (FAN, VALVE)}
    target = log_mel(np.stack([sound(FAN, i, domain=Domain.TARGET) for i in range(3)]))
    embeddings = {FAN: encoder.encode(source[FAN], [0, 1]), VALVE: encoder.encode(source[VALVE], [1])}
    target_embeddings = encoder.encode(target, [0, 1])
    encoder.close()
    t_max = temporal_maximum(source[VALVE], MEAN, DEVIATION)
    gaussian = fit_mixture(t_max, 1, centers=None, seed=0, dtype=np.float64)
    sections = {
        FAN: SectionModel(
            members=tuple(
                MemberModel(
                    section=_mixture(embeddings[FAN][:, member]),
                    attributes={
                        "speed_1": _mixture(embeddings[FAN][::2, member]),
                        "speed_2": _mixture(embeddings[FAN][1::2, member]),
                    },
                    target=clip_mixture(target_embeddings[:, member]),
                )
                for member in range(2)
            ),
            temporal_maximum=None,
        ),
        VALVE: SectionModel(
            members=(
                MemberModel(
                    section=_mixture(embeddings[VALVE][:, 0]),
                    attributes={"noAttribute": _mixture(embeddings[VALVE][:, 0])},
                    target=None,
                ),
            ),
            temporal_maximum={"noAttribute": gaussian},
        ),
    }
    calibrations: dict[CalibrationKey, SectionCalibration] = {
        (FAN, Domain.SOURCE): _calibration(sections[FAN], Domain.SOURCE, embeddings[FAN], source[FAN]),
        (FAN, Domain.TARGET): _calibration(sections[FAN], Domain.TARGET, target_embeddings, target),
        (VALVE, Domain.SOURCE): _calibration(sections[VALVE], Domain.SOURCE, embeddings[VALVE], source[VALVE]),
    }
    return Bundle(_manifest(list(files), demonstration=demonstration), files, sections, calibrations)


def with_canary(bundle: Bundle) -> Bundle:
    """The bundle with a canary of its own, ready to be written."""
    detector = Detector(bundle, device=Device.CPU, threads=1)
    waveforms = np.stack([sound(FAN, seed)[:CLIP_SAMPLES] for seed in (100, 101)])
    canary = detector.record_canary(waveforms, FAN, Domain.SOURCE)
    detector.close()
    return Bundle(bundle.manifest, bundle.embedders, bundle.sections, bundle.calibrations, canary)


def _mixture(x: NDArray[np.float32]) -> Mixture:
    return fit_mixture(x, 2, centers=x[:2], seed=0)


def _calibration(
    model: SectionModel, domain: Domain, embeddings: NDArray[np.float32], log_mels: NDArray[np.float32]
) -> SectionCalibration:
    terms = score_section(model, embeddings, temporal_maximum(log_mels, MEAN, DEVIATION), domain)
    bands = log_mels.reshape(-1, N_MELS).astype(np.float64)
    return SectionCalibration(
        calibration=Calibration.from_scores(decision_score(terms, domain), ThresholdRule.PAPER),
        mel_mean=bands.mean(axis=0),
        mel_deviation=bands.std(axis=0),
        level_quantiles_dbfs=np.quantile([-24.0, -23.0, -21.0, -19.0], LEVEL_QUANTILES),
    )


def _manifest(files: list[str], *, demonstration: bool) -> Manifest:
    heads = (LossChoice.BOTH_HEADS, LossChoice.SECTIONS)
    types: Mapping[str, object] = {
        FAN.machine_type: {
            "loss": LossChoice.SUM,
            "sections": {
                FAN.section: {
                    "domains": [Domain.SOURCE, Domain.TARGET],
                    "attributes": ["speed_1", "speed_2"],
                    "clips": {"source": N_CLIPS, "target": 3},
                }
            },
        },
        VALVE.machine_type: {
            "loss": LossChoice.SECTIONS,
            "sections": {
                VALVE.section: {
                    "domains": [Domain.SOURCE],
                    "attributes": ["noAttribute"],
                    "clips": {"source": N_CLIPS, "target": 0},
                }
            },
        },
    }
    return Manifest.model_validate(
        {
            "name": "tiny",
            "demonstration": demonstration,
            "front_end": FrontEnd.from_spec(LogMelSpec()),
            "standardisation": Standardisation(mean=tuple(MEAN.tolist()), deviation=tuple(DEVIATION.tolist())),
            "members": [
                MemberEntry(
                    id=file.removesuffix(".onnx"),
                    file=file,
                    network=file.split("-e", maxsplit=1)[0],
                    sub_clusters=2,
                    heads=heads[place],
                    snapshot_epoch=4,
                )
                for place, file in enumerate(files)
            ],
            "machine_types": types,
            "recipe": {"name": "tiny", "epochs": 4},
            "training_data": {"recordings": 2 * N_CLIPS + 3},
            "versions": {"earwitness": "0.1.0"},
        }
    )


def mixtures_of(bundle: Bundle, key: SectionKey) -> SectionModel:
    """The mixtures of one of the bundle's sections."""
    model = bundle.sections[key]
    assert isinstance(model, SectionModel)
    return model


def held_once(model: SectionModel) -> bool:
    """Whether the section's mixtures are the very memory that its terms are computed in."""
    assert model._together is not None
    blocks = zip(model.members, model._together.means, model._together.factors, strict=True)
    return all(
        np.shares_memory(own, block)
        for member, means, factors in blocks
        for mixture in (member.section, *member.attributes.values())
        if isinstance(mixture, Mixture)
        for own, block in (
            (mixture.components.means[0], means),
            (mixture.components.factors[0], factors),
            (mixture.factors, factors),
        )
        if len(own)
    )
