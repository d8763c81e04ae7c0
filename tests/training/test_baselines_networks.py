"""The challenge's two networks: their published sizes, their scores against plain loops, and resumed training."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.errors import NotTrainable, TrainingDiverged
from models.vocabulary import Domain, SectionKey
from tests.training.small import small_store
from training.baselines import autoencoder, mobilenetv2
from training.baselines.autoencoder import AutoencoderScorer
from training.baselines.examples import Examples, epoch_steps, stack_frames
from training.baselines.fitting import fit_network
from training.baselines.mobilenetv2 import TOGETHER, MobileNetV2Scorer, log_odds_against
from training.baselines.networks import build_autoencoder, build_section_classifier, fold_batch_norms
from training.baselines.trained import Budget, Network

FAN, FAN_1, PUMP, VALVE = (
    SectionKey(*names) for names in (("fan", "00"), ("fan", "01"), ("pump", "00"), ("valve", "00"))
)
FEW = Budget(frames=5, hop=60, epochs=4, batch_size=32, learning_rate=1e-3)
"""20 clips of 6 vectors: 4 steps an epoch, the last of 24."""


def sizes(model: keras.Model) -> tuple[int, int]:
    """Parameters that are trained, and those that are not."""
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return trained, model.count_params() - trained


def examples(classes: NDArray[np.int32] | None = None) -> Examples:
    store = small_store()
    return Examples(store.log_mels, np.arange(len(store.clips)), classes)


def test_the_autoencoder_has_the_published_size() -> None:
    """640 -> four of 128 -> 8 -> four of 128 -> 640, normalised and rectified but for the last: summed by hand."""
    model = build_autoencoder(640, 1e-3)
    shapes = [tuple(layer.kernel.shape) for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert shapes == [(640, 128), *[(128, 128)] * 3, (128, 8), (8, 128), *[(128, 128)] * 3, (128, 640)]
    hidden = 8 * 128 + 8
    dense = sum(inputs * units + units for inputs, units in shapes)
    assert (dense, hidden) == (265_864, 1032)
    assert sizes(model) == (dense + 2 * hidden, 2 * hidden) == (267_928, 2_064)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", *["Dense", "BatchNormalization", "ReLU"] * 9, "Dense"]


def test_mobilenetv2_has_the_published_size() -> None:
    """Of half width 706,224 parameters without its classes (keras.io's 1,987,224 with a thousand), 1,281 each."""
    model = build_section_classifier(64, 3, 1e-5)
    assert sizes(model) == (706_224 - 18_544 + 3 * 1281, 18_544)
    assert 706_224 + 1000 * 1281 == 1_987_224
    assert (model.input_shape, model.output_shape) == ((None, 64 * 128), (None, 3))


def test_official_budgets() -> None:
    """Those of the public code, on the official amount of data: three sections of 1,003 clips."""
    clips = {SectionKey("fan", section): 1003 for section in ("00", "01", "02")}
    (encoder,), (classifier,) = autoencoder.networks(clips).values(), mobilenetv2.networks(clips).values()
    assert encoder == Network(tuple(clips), Budget(frames=5, hop=1, epochs=100, batch_size=512, learning_rate=1e-3))
    assert classifier == Network(tuple(clips), Budget(frames=64, hop=8, epochs=20, batch_size=32, learning_rate=1e-5))
    assert epoch_steps(454, encoder.budget) == 274
    assert epoch_steps(454, classifier.budget) == 454


@pytest.mark.parametrize(("frames", "hop"), [(5, 1), (64, 8), (64, 32)])
def test_frames_are_stacked_as_a_loop_stacks_them(frames: int, hop: int) -> None:
    """Without copying: the earliest first, and the last stack within the clip."""
    log_mels = small_store(2).log_mels
    stacks = stack_frames(log_mels, frames, hop)
    starts = range(0, 313 - frames + 1, hop)
    assert stacks.shape == (2, len(starts), frames * 128)
    assert np.shares_memory(stacks, log_mels)
    for clip, log_mel in enumerate(log_mels):
        for place, start in enumerate(starts):
            np.testing.assert_array_equal(stacks[clip, place], np.concatenate(list(log_mel[start : start + frames])))


def test_an_epoch_is_every_stack_once_in_an_order_of_its_own() -> None:
    """With the class of its clip; equal for equal seed and epoch."""
    rows = np.array([3, 7, 8])
    given = replace(examples(np.array([0, 1, 1], np.int32)), rows=rows)
    given.log_mels[:, :, 0] = np.arange(20)[:, None] * 1000 + np.arange(313)

    def epoch(number: int) -> list[tuple[int, int]]:
        batches = list(given.batches(FEW, 5, number))
        assert [len(stacks) for stacks, _ in batches] == [18]
        return [
            (int(stack[0]), int(own)) for stacks, classes in batches for stack, own in zip(stacks, classes, strict=True)
        ]

    expected = [(1000 * row + start, own) for row, own in ((3, 0), (7, 1), (8, 1)) for start in range(0, 309, 60)]
    assert sorted(epoch(1)) == expected
    assert epoch(1) == epoch(1) != epoch(2)
    (mirrored,) = replace(given, classes=None).batches(FEW, 5, 1)
    assert mirrored[0] is mirrored[1]


def test_the_autoencoders_score_is_a_plain_loops() -> None:
    """Vector by vector through dense, normalisation and rectifier as written, with statistics that are not neutral."""
    random = np.random.default_rng(1)
    model = build_autoencoder(640, 1e-3)
    for variable in model.variables:
        spread = random.normal(0.0, 0.5, variable.shape) / (1 if len(variable.shape) == 1 else variable.shape[0] ** 0.5)
        variable.assign(np.abs(spread) + 0.5 if variable.path.endswith("variance") else spread)
    arrays = {
        f"fan/{n}_{i}": a
        for i, layer in enumerate(fold_batch_norms(model))
        for n, a in zip(("kernel", "bias"), layer, strict=True)
    }
    log_mels = small_store(2).log_mels[:, :24]
    found = AutoencoderScorer(["fan"], arrays).score(log_mels, FAN, Domain.TARGET)

    def give_back(x: NDArray[np.float64]) -> NDArray[np.float64]:
        for layer in model.layers[1:]:
            weights = [np.asarray(w, np.float64) for w in layer.get_weights()]
            if isinstance(layer, keras.layers.Dense):
                x = x @ weights[0] + weights[1]
            elif isinstance(layer, keras.layers.BatchNormalization):
                gamma, beta, mean, variance = weights
                x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
            else:
                x = np.where(x > 0, x, 0.0)
        return x

    for log_mel, score in zip(log_mels.astype(np.float64), found, strict=True):
        errors = []
        for start in range(20):
            vector = np.concatenate([log_mel[start + frame] for frame in range(5)])
            errors.append(sum((vector - give_back(vector)) ** 2) / 640)
        assert score == pytest.approx(sum(errors) / 20, rel=1e-5)


def test_log_odds_against_are_those_of_the_softmax() -> None:
    """ln((1 - p) / p); and where p rounds to 1 they still tell how sure the network is."""
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for own in range(4):
        np.testing.assert_allclose(log_odds_against(logits, own), np.log((1 - p[:, own]) / p[:, own]), rtol=1e-9)
    sure = log_odds_against(np.array([[300.0, 0.0], [400.0, 0.0]], np.float32), 0)
    np.testing.assert_allclose(sure, [-300.0, -400.0])


def test_a_single_section_is_told_from_all_others() -> None:
    """A network a machine type that has several; all other types share one, with every section of the run in it."""
    several = mobilenetv2.networks({FAN_1: 5, FAN: 5})
    assert {name: network.sections for name, network in several.items()} == {"fan": (FAN, FAN_1)}
    mixed = mobilenetv2.networks({VALVE: 5, FAN_1: 5, PUMP: 5, FAN: 5})
    assert {name: network.sections for name, network in mixed.items()} == {
        "fan": (FAN, FAN_1),
        TOGETHER: (FAN, FAN_1, PUMP, VALVE),
    }
    encoders = autoencoder.networks({PUMP: 1, FAN_1: 1, FAN: 1})
    assert {name: network.sections for name, network in encoders.items()} == {"fan": (FAN, FAN_1), "pump": (PUMP,)}
    with pytest.raises(NotTrainable, match="All training recordings are of one section, pump 00"):
        mobilenetv2.networks({PUMP: 500})


@pytest.fixture
def without_graphs() -> Iterator[None]:
    """For one step and one batch, drawing up a graph of 150 layers costs more than it saves."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("without_graphs")
def test_mobilenetv2_scores_the_mean_over_its_blocks(tmp_path: Path) -> None:
    """Blocks of 64 frames, one every 8; a type's own network where there is one, else the shared; the own section."""
    budget = Budget(frames=64, hop=250, epochs=1, batch_size=16, learning_rate=1e-3)
    steps: list[int] = []
    fitted = mobilenetv2.fit(
        examples(np.arange(20, dtype=np.int32) % 3), budget, tmp_path, seed=0, advance=steps.append
    )
    assert sum(steps) == 2
    shared = Network((FAN, FAN_1, PUMP), budget)
    scorer = MobileNetV2Scorer({TOGETHER: shared}, {f"{TOGETHER}/{name}": array for name, array in fitted.items()})
    log_mels = small_store(2).log_mels[:, :90]
    model = build_section_classifier(64, 3, 1e-3)
    for variable, name in zip(model.weights, sorted(fitted), strict=True):
        variable.assign(fitted[name])
    blocks = [log_mels[:, start : start + 64].reshape(2, -1) for start in (0, 8, 16, 24)]
    logits = model.predict_on_batch(np.concatenate(blocks)).reshape(4, 2, 3)
    for key, own in ((FAN, 0), (PUMP, 2)):
        expected = np.mean([log_odds_against(one, own) for one in logits], axis=0)
        np.testing.assert_allclose(scorer.score(log_mels, key, Domain.SOURCE), expected, rtol=1e-4, atol=1e-5)


def small_network() -> keras.Model:
    """An autoencoder of one layer, quickly compiled."""
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(640)]
    model = keras.Sequential([keras.Input((640,)), *layers])
    model.compile(keras.optimizers.Adam(1e-3), "mean_squared_error", jit_compile=False)
    return model


def fit(folder: Path, advance: Any = lambda _: None) -> list[NDArray[np.float32]]:
    model = fit_network(small_network, examples(), FEW, folder, seed=3, advance=advance)
    return [np.asarray(variable) for variable in model.variables]


def test_a_run_stopped_in_the_middle_of_an_epoch_resumes_to_the_same_network(tmp_path: Path) -> None:
    """In the tenth of sixteen steps; what it has done is told first; a finished one is only read."""
    done = 0

    class StoppedError(Exception):
        pass

    def stop(units: int) -> None:
        nonlocal done
        done += units
        if done == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(tmp_path / "stopped" / "fan", stop)
    steps: list[int] = []
    resumed = fit(tmp_path / "stopped" / "fan", steps.append)
    assert steps == [8, *[1] * 8]
    whole = fit(tmp_path / "whole" / "fan")
    other = fit(tmp_path / "whole" / "pump")
    for ours, theirs in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert any(np.abs(ours - theirs).max() > 1e-2 for ours, theirs in zip(whole, other, strict=True)), (
        "networks of one run differ in their seeds"
    )
    assert fit(tmp_path / "whole" / "fan", steps.append)[0].shape == (640, 4)
    assert steps[-1] == 16
    with np.load(tmp_path / "whole" / "fan" / "checkpoint.npz") as saved:
        assert saved["losses"].shape == (4,)
        assert saved["losses"][3] < saved["losses"][0]


def test_nan_stops_with_a_sentence(tmp_path: Path) -> None:
    """And nothing of the epoch is kept."""
    given = examples()
    given.log_mels[3, 2, 20] = np.nan
    with pytest.raises(TrainingDiverged, match="Training of fan diverged in epoch 1"):
        fit_network(small_network, given, FEW, tmp_path / "fan", seed=0, advance=lambda _: None)
    assert not list(tmp_path.rglob("*.npz"))
