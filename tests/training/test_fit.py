"""Training: resumed runs equal uninterrupted ones, both Keras backends learn alike, trouble is said."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import TrainingDiverged
from models.vocabulary import LossChoice
from tests.training.small import N_CLIPS, quick_lesson, run_python, small_labels, small_recipe, small_store
from training import fit
from training.curves import HISTORY_COLUMNS
from training.export import member_name
from training.fit import (
    LIMIT_PATIENCE,
    RunningAverage,
    batches,
    build_training_model,
    fit_network,
    limited_epochs,
    load_snapshot,
    takes_snapshot,
)
from training.recipe import Network, ServedWeights

Weights = tuple[NDArray[np.float32], ...]
NETWORK = Network(LossChoice.BOTH_HEADS, 2)
STEPS = 12


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_same_network(tmp_path: Path) -> None:
    """SIGKILL in the eighth of twelve steps, in the third epoch; embeddings equal those of an uninterrupted run."""
    killed = run_python(
        f"""
        import os, signal
        from pathlib import Path
        import tensorflow as tf
        from tests.training.small import quick_lesson, small_recipe
        from training.fit import fit_network
        from training.recipe import Network
        from models.vocabulary import LossChoice
        tf.config.experimental.enable_op_determinism()
        done = 0
        def advance(units):
            global done
            done += units
            if done == 8:
                os.kill(os.getpid(), signal.SIGKILL)
        fit_network(quick_lesson(), Network(LossChoice.BOTH_HEADS, 2), small_recipe(),
                    Path({str(tmp_path / "killed")!r}), seed=3, advance=advance)
        """
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "killed" / "checkpoint.npz").exists()
    assert len(list((tmp_path / "killed" / "snapshots").glob("*.npz"))) == 1

    lesson, recipe = quick_lesson(), small_recipe()
    advanced: list[int] = []
    resumed = fit_network(lesson, NETWORK, recipe, tmp_path / "killed", seed=3, advance=advanced.append)
    assert advanced == [6, *[1] * 6]
    whole = fit_network(lesson, NETWORK, recipe, tmp_path / "whole", seed=3, advance=lambda _: None)
    assert [path.name for path in resumed] == [path.name for path in whole] == ["00002.npz", "00004.npz"]
    for one, other in zip(resumed, whole, strict=True):
        ours, theirs = load_snapshot(one, NETWORK), load_snapshot(other, NETWORK)
        assert (ours.epoch, ours.limited) == (theirs.epoch, theirs.limited)
        for weight, expected in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-5)
        assert embeddings_differ_by(ours.weights, theirs.weights) < 1e-4
        assert ours.section_centers.keys() == {("fan", "00"), ("fan", "01")}
        assert {len(name) for name in ours.attribute_centers} == {2}
        for centers in ours.section_centers.values():
            assert centers.shape == (2, 128)
            np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1.0, rtol=1e-5)
    averages = [load_snapshot(path, NETWORK, ServedWeights.AVERAGE) for path in (resumed[-1], whole[-1])]
    for weight, expected in zip(averages[0].weights, averages[1].weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    last = load_snapshot(whole[-1], NETWORK)
    assert embeddings_differ_by(averages[1].weights, last.weights) > 0.01, "twelve steps are far from their average"
    for name, centers in averages[1].section_centers.items():
        np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(centers, averages[0].section_centers[name], atol=1e-5)
        assert np.abs(centers - last.section_centers[name]).max() > 1e-4
    assert fit_network(lesson, NETWORK, recipe, tmp_path / "whole", seed=3, advance=advanced.append) == whole, (
        "a finished run is only read"
    )
    assert advanced[-1] == STEPS


def test_the_running_average_takes_in_every_fourth_step() -> None:
    """Against a loop over assigned weights: 0.995 a step of itself is kept, from the initial values on."""
    random = np.random.default_rng(2)
    initial = [random.normal(size=shape) for shape in ((3, 2), (4,))]
    variables = [keras.Variable(value.astype(np.float32)) for value in initial]
    average = RunningAverage(variables)
    expected = initial
    for step in range(1, 15):
        assigned = [random.normal(size=value.shape) for value in initial]
        for variable, value in zip(variables, assigned, strict=True):
            variable.assign(value)
        average.step()
        if step % 4 == 0:
            share = 0.995**4
            expected = [share * own + (1 - share) * value for own, value in zip(expected, assigned, strict=True)]
    assert average.steps == 14
    for found, value, start in zip(average.values, expected, initial, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5)
        assert np.abs(found - start).max() > 0.01


def embeddings_differ_by(ours: Weights, theirs: Weights) -> float:
    """Largest difference of embeddings of the clips, relative to their largest value."""
    store, found = small_store(), []
    for weights in (ours, theirs):
        embedder = quick_lesson(store).build()
        for variable, value in zip(embedder.variables, weights, strict=True):
            variable.assign(value)
        found.append(np.asarray(embedder(store.log_mels, training=False)))
    return float(np.abs(found[0] - found[1]).max() / np.abs(found[1]).max())


LOSSES = """
    import numpy as np
    from pathlib import Path
    from tests.training.small import N_CLIPS, small_lesson, small_recipe
    from training.fit import batches, build_training_model
    from training.recipe import Network
    from models.vocabulary import LossChoice
    lesson, recipe, network = small_lesson(), small_recipe(), Network(LossChoice.BOTH_HEADS, 2)
    model, heads = build_training_model(lesson.build(), lesson.labels, network, recipe)
    random = np.random.default_rng(5)
    for v in model.trainable_variables:
        fan = np.prod(v.shape[:-1]) if len(v.shape) > 1 else 1
        v.assign(random.normal(size=v.shape) * fan ** -0.5 if len(v.shape) > 1 else np.asarray(v))
    for log_mels, shares, *ids in batches(lesson, network, recipe, recipe.schedule(N_CLIPS), 1, 1):
        nothing = np.zeros(len(log_mels), np.float32)
        results = model.train_on_batch([log_mels, shares, *ids], [nothing, nothing])
        print(*(float(r) for r in results), *(float(h.scale) for h in heads))
"""


def test_jax_and_tensorflow_learn_alike() -> None:
    """The same code on the same weights and batches: losses and scales of three steps agree to half a percent."""
    found, backends = {}, ("tensorflow", "jax")
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda backend: run_python(LOSSES, KERAS_BACKEND=backend), backends))
    for backend, result in zip(backends, results, strict=True):
        assert result.returncode == 0, result.stderr
        found[backend] = np.array([line.split() for line in result.stdout.splitlines()], float)
    assert found["jax"].shape == (3, 5)
    assert np.ptp(found["jax"][:, 0]) > 0.01, "the losses must move, or they would agree in any case"
    np.testing.assert_allclose(found["jax"], found["tensorflow"], rtol=5e-3)


def test_a_step_is_traced_once_and_once_for_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of eight, eight and four; variables that the first step had to make would have it traced twice."""
    lesson, recipe = quick_lesson(), small_recipe()
    model, heads = build_training_model(lesson.build(), lesson.labels, NETWORK, recipe)
    sizes, step = list[int | None](), model.train_step

    def traced(data: Any) -> Any:
        sizes.append(data[0][0].shape[0])
        return step(data)

    monkeypatch.setattr(model, "train_step", traced)
    for inputs, shares, *ids in batches(lesson, NETWORK, recipe, recipe.schedule(N_CLIPS), 1, 1):
        model.train_on_batch([inputs, shares, *ids], [np.zeros(len(inputs), np.float32)] * len(heads))
    assert sizes == [8, None]


def test_an_epoch_is_every_clip_once_in_an_order_of_its_own() -> None:
    """Drawn from (seed, epoch): equal for equal arguments, another for another epoch; the last batch is kept."""
    store, labels, recipe = small_store(), small_labels(), small_recipe()
    store.log_mels[:, 0, 0] = np.arange(N_CLIPS)
    lesson = quick_lesson(store)
    schedule = recipe.schedule(N_CLIPS)

    def order(epoch: int) -> list[list[float]]:
        return [batch[0][:, 0, 0].tolist() for batch in batches(lesson, NETWORK, recipe, schedule, 9, epoch)]

    assert [len(batch) for batch in order(1)] == [8, 8, 4]
    assert sorted(chain.from_iterable(order(1))) == list(range(N_CLIPS))
    assert order(1) == order(1) != order(2)
    for log_mels, shares, sections, attributes in batches(lesson, NETWORK, recipe, schedule, 9, 1):
        rows = log_mels[:, 0, 0].astype(int)
        assert sections.tolist() == labels.section_ids[rows].tolist()
        assert attributes.tolist() == labels.attribute_ids[rows].tolist()
        assert ((shares >= 0) & (shares < 1)).all()


def test_a_snapshot_waits_ten_epochs_at_most_after_the_scale_met_its_limit() -> None:
    """FACTS 3."""
    assert not takes_snapshot(99, 100, limited=False)
    assert takes_snapshot(100, 100, limited=False)
    assert not any(takes_snapshot(epoch, 100, limited=True) for epoch in range(100, 100 + LIMIT_PATIENCE))
    assert takes_snapshot(100 + LIMIT_PATIENCE, 100, limited=True)


def test_a_snapshot_that_waited_is_marked_and_so_is_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit acts in the first epoch alone: the snapshots due after 2 and 4 wait until the 11th, and say so."""

    def epoch_without_training(*arguments: Any, limit: float) -> NDArray[np.float64]:
        assert limit == 64.0
        epoch = arguments[3]
        return np.array([epoch, 1.0, 1.0, 1.0, 5.0, 5.0, epoch == 1])

    monkeypatch.setattr(fit, "train_epoch", epoch_without_training)
    paths = fit_network(quick_lesson(), NETWORK, small_recipe(), tmp_path, seed=0, advance=lambda _: None)
    snapshots = [load_snapshot(path, NETWORK) for path in paths]
    assert [(snapshot.due, snapshot.epoch, snapshot.limited) for snapshot in snapshots] == [
        (2, 11, True),
        (4, 11, True),
    ]
    assert len({member_name(snapshot) for snapshot in snapshots}) == 2, "each is a member of its own"
    assert limited_epochs(tmp_path) == 1


def test_nan_stops_with_a_sentence(tmp_path: Path) -> None:
    """One bad value among the features reaches the loss, and training says so instead of going on."""
    store = small_store()
    store.log_mels[3, 100, 20] = np.nan
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        fit_network(quick_lesson(store), NETWORK, small_recipe(), tmp_path, seed=0, advance=lambda _: None)
    assert not list(tmp_path.rglob("*.npz")), "nothing of a diverged run is kept"


def test_the_history_is_kept_with_the_checkpoint(tmp_path: Path) -> None:
    """A row an epoch, for the training curves; the section-only network has no attribute columns."""
    fit_network(
        quick_lesson(),
        Network(LossChoice.SECTIONS, 1),
        small_recipe(),
        tmp_path,
        seed=0,
        advance=lambda _: None,
    )
    with np.load(tmp_path / "checkpoint.npz") as saved:
        history = dict(zip(HISTORY_COLUMNS, saved["history"].T, strict=True))
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert (history["section_scale"] > 0).all()
    assert np.isnan(history["attribute_scale"]).all()
    assert np.isfinite(history["loss"]).all()


def test_a_network_learns_from_its_rows_alone(tmp_path: Path) -> None:
    """Of twenty clips the eleven outside a fold; a last batch of one is skipped where the recipe says so."""
    store, recipe = small_store(), replace(small_recipe(), batch_size=5, least_batch=2)
    store.log_mels[:, 0, 0] = np.arange(N_CLIPS)
    rows = np.arange(0, 11)
    lesson = replace(quick_lesson(store), rows=rows)
    schedule = recipe.schedule(len(rows))
    assert schedule.epoch_steps == 2
    heard = [batch[0][:, 0, 0].astype(int).tolist() for batch in batches(lesson, NETWORK, recipe, schedule, 9, 1)]
    assert [len(batch) for batch in heard] == [5, 5]
    assert set(chain.from_iterable(heard)) <= set(rows)


def test_a_head_with_one_class_is_left_out() -> None:
    """One machine in several conditions: its attributes are told apart, its only section is not."""
    labels = replace(small_labels(), section_classes=(("fan", "00"),), section_ids=np.zeros(N_CLIPS, np.int32))
    lesson = replace(quick_lesson(), labels=labels)
    model, heads = build_training_model(lesson.build(), labels, NETWORK, small_recipe())
    assert [head.name for head in heads] == ["attributes"]
    assert len(model.inputs) == 3
    recipe = small_recipe()
    batch = next(batches(lesson, NETWORK, recipe, recipe.schedule(N_CLIPS), 1, 1))
    np.testing.assert_array_equal(
        batch[2], labels.attribute_ids[np.random.default_rng([1, 1]).permutation(N_CLIPS)[:8]]
    )
