"""A small real bundle made in a second: three networks of one matrix each, real mixtures, held-out calibration.

It knows a fan (sections 00, trained with target clips, and 01, without) and a pump (section 00), whose members differ.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ
from models.bundle import Bundle, SectionCalibration, write_bundle
from models.contents import LEVEL_QUANTILES
from models.decision import Calibration
from models.detector import Detector
from models.encoder import Device, Encoder
from models.frontend import N_FRAMES, N_MELS, LogMelSpec, log_mel, temporal_maximum
from models.manifest import (
    ClipCounts,
    FrontEnd,
    MachineTypeEntry,
    Manifest,
    MemberEntry,
    SectionEntry,
    Standardisation,
)
from models.mixtures import clip_mixture
from models.scoring import MemberModel, SectionModel, decision_score, score_section
from models.vocabulary import NO_ATTRIBUTE, Domain, LossChoice, SectionKey, ThresholdRule

Waveforms = NDArray[np.float32]

FAN_0, FAN_1, PUMP = SectionKey("fan", "00"), SectionKey("fan", "01"), SectionKey("pump", "00")
_FUNDAMENTALS_HZ = {FAN_0: 180.0, FAN_1: 260.0, PUMP: 90.0}
_TRAINING, _HELD_OUT, _TARGET = 8, 12, 3


def sound(
    key: SectionKey, seed: int, *, seconds: float = 10.0, target: bool = False, fault: bool = False
) -> NDArray[np.float32]:
    """A machine's hum over noise; the target domain runs faster, a fault whistles."""
    rng = np.random.default_rng([seed, target, fault])
    time_s = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    speed = (1.25 if target else 1.0) * rng.uniform(0.98, 1.02)
    waveform = 0.02 * rng.standard_normal(len(time_s))
    for harmonic in range(1, 9):
        frequency = harmonic * speed * _FUNDAMENTALS_HZ[key]
        waveform += 0.1 / harmonic * np.sin(2 * np.pi * frequency * time_s + rng.uniform(0, 6))
    if fault:
        waveform += 0.2 * np.sin(2 * np.pi * 3100.0 * time_s)
    return waveform.astype(np.float32)


def wav(waveform: NDArray[Any], *, subtype: str = "PCM_16", kind: str = "WAV", rate: int = 16_000) -> bytes:
    """A recording as the bytes of a file."""
    file = io.BytesIO()
    if subtype == "PCM_16":  # libsndfile rounds floats otherwise for each container
        waveform = np.round(waveform * 32767.0).astype(np.int16)
    soundfile.write(file, waveform, rate, format=kind, subtype=subtype)
    return file.getvalue()


def make_bundle(
    folder: Path, keys: Sequence[SectionKey] = (FAN_0, FAN_1, PUMP), *, name: str = "test", seed: int = 0
) -> Bundle:
    """Write the bundle, with the sections of ``keys``; another ``seed`` makes other networks, and so other scores."""
    sounds = {
        (key, target): np.stack([sound(key, seed, target=target) for seed in range(count)])
        for key in keys
        for target, count in ((False, _TRAINING + _HELD_OUT), (True, _TARGET))
    }
    log_mels = {which: log_mel(waveforms) for which, waveforms in sounds.items()}
    frames = np.concatenate([one.reshape(-1, N_MELS) for one in log_mels.values()]).astype(np.float64)
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    members = [
        MemberEntry(id=f"m{n}", file=f"m{n}.onnx", network=f"n{n}", sub_clusters=1, heads=heads, snapshot_epoch=1)
        for n, heads in enumerate((LossChoice.BOTH_HEADS, LossChoice.BOTH_HEADS, LossChoice.SECTIONS))
    ]
    manifest = Manifest(
        name=name,
        demonstration=True,
        front_end=FrontEnd.from_spec(LogMelSpec()),
        standardisation=Standardisation(mean=tuple(mean), deviation=tuple(deviation)),
        members=tuple(members),
        machine_types={
            machine_type: MachineTypeEntry(
                loss=LossChoice.SECTIONS if machine_type == "pump" else LossChoice.BOTH_HEADS,
                sections={key.section: _entry(key) for key in keys if key.machine_type == machine_type},
            )
            for machine_type in sorted({key.machine_type for key in keys})
        },
        recipe={"name": "test"},
        training_data={"clips": len(frames) // N_FRAMES, "curves": {"both-heads-s2": {"epoch": [1.0], "loss": [3.2]}}},
        versions={"numpy": np.__version__},
    )
    embedders = {member.file: _embedder(number, mean, deviation) for number, member in enumerate(members, seed)}
    encoder = Encoder(list(embedders.values()), device=Device.CPU, threads=1)
    models, calibrations = {}, {}
    for key in keys:
        own = manifest.members_of(key.machine_type)
        source, target = (encoder.encode(log_mels[key, is_target], own) for is_target in (False, True))
        t_max = temporal_maximum(log_mels[key, False], mean, deviation)
        model = SectionModel(
            tuple(
                MemberModel(
                    section=clip_mixture(source[:_TRAINING, member]),
                    attributes={NO_ATTRIBUTE: clip_mixture(source[:_TRAINING, member])},
                    target=clip_mixture(target[:, member]) if _has_target(key) else None,
                )
                for member in range(source.shape[1])
            ),
            temporal_maximum=None,
        )
        held_out = score_section(model, source[_TRAINING:], t_max[_TRAINING:], Domain.SOURCE)
        scores = decision_score(held_out, Domain.SOURCE)
        levels = 10 * np.log10(np.mean(np.square(sounds[key, False]), axis=1))
        models[key] = model
        calibrations[key, Domain.SOURCE] = _calibration(scores, ThresholdRule.HELD_OUT, levels, log_mels[key, False])
        if _has_target(key):
            first = score_section(model, target, None, Domain.TARGET)
            scores = decision_score(first, Domain.TARGET)
            calibrations[key, Domain.TARGET] = _calibration(scores, ThresholdRule.PAPER, levels, log_mels[key, True])
    bundle = Bundle(manifest, embedders, models, calibrations)
    canary = Detector(bundle, device=Device.CPU, threads=1).record_canary(
        sounds[keys[0], False][:2, :CLIP_SAMPLES], keys[0], Domain.SOURCE
    )
    return write_bundle(folder, Bundle(manifest, embedders, models, calibrations, canary))


def _has_target(key: SectionKey) -> bool:
    return key == FAN_0


def _entry(key: SectionKey) -> SectionEntry:
    domains = (Domain.SOURCE, Domain.TARGET) if _has_target(key) else (Domain.SOURCE,)
    clips = ClipCounts(source=_TRAINING + _HELD_OUT, target=_TARGET if _has_target(key) else 0)
    return SectionEntry(domains=domains, attributes=(NO_ATTRIBUTE,), clips=clips)


def _calibration(
    scores: NDArray[np.float64], rule: ThresholdRule, levels: NDArray[np.floating], log_mels: NDArray[np.float32]
) -> SectionCalibration:
    return SectionCalibration(
        Calibration.from_scores(scores, rule),
        mel_mean=log_mels.mean(axis=(0, 1), dtype=np.float64),
        mel_deviation=log_mels.std(axis=(0, 1), dtype=np.float64),
        level_quantiles_dbfs=np.quantile(levels.astype(np.float64), LEVEL_QUANTILES),
    )


def _embedder(seed: int, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> bytes:
    """A network that is one matrix: the mean over time of the standardised log-mel, turned into 128 other values."""
    weights = np.random.default_rng(seed).standard_normal((N_MELS, 128)) / deviation[:, None]
    bias = -mean @ weights
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["log_mel", "time_axis"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["turned"]),
            helper.make_node("Add", ["turned", "bias"], ["embedding"]),
        ],
        "embedder",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["clips", N_FRAMES, N_MELS])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["clips", 128])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "time_axis"),
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
