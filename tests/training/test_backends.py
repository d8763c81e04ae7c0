"""Which clips stand behind which mixture, and where each fit starts."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from models.mixtures import Mixture, clip_mixture, fit_mixture
from models.references import References, refer_to
from models.scoring import Normality, SectionModel
from models.targets import target_normality
from models.vocabulary import NO_ATTRIBUTE, Domain, SectionKey, Split
from tests.models.tiny import held_once
from training.backends import (
    CENTERS,
    DENSITY_NEIGHBOURS,
    Fitting,
    MemberCenters,
    TrainingSet,
    dropped_components,
    fit_sections,
)
from training.features import TrainingClip
from training.parallel import spread
from training.recipe import Backend
from training.recordings import AttributeClass, Recording

Array = NDArray[np.floating[Any]]
D, MELS, SEED = 10, 7, 5
FITTING = Fitting(seed=SEED, temporal_maximum_types=("valve",))
VALVE_0, VALVE_1, FAN = SectionKey("valve", "00"), SectionKey("valve", "01"), SectionKey("fan", "00")


def unit(x: Array) -> Array:
    lengths: Array = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / lengths


def clip(
    key: SectionKey, domain: Domain, attribute: str, number: int, *, start_s: float = 0.0, speed: float = 1.0
) -> TrainingClip:
    """A normal training clip; its recording is its file."""
    name = f"{key.machine_type}-{key.section}-{domain}-{number:04d}"
    recording = Recording(
        path=Path(name),
        machine_type=key.machine_type,
        section=key.section,
        domain=domain,
        split=Split.TRAIN,
        condition=None,
        attribute=attribute,
        recording=name,
        challenge=True,
    )
    return TrainingClip(recording, start_s, speed)


def training_set(clips: Sequence[TrainingClip], members: int, seed: int = 0) -> TrainingSet:
    """Embeddings around one centre an attribute class, temporal maxima anywhere."""
    random = np.random.default_rng(seed)
    n = len(clips)
    return TrainingSet(
        clips,
        unit(random.normal(size=(n, members, D)) + 2.0 * random.normal(size=D)).astype(np.float32),
        3.0 * random.normal(size=(n, MELS)),
    )


CLIPS = (
    *(clip(VALVE_0, Domain.SOURCE, ("pat_00", "pat_01")[i % 2], i) for i in range(16)),
    *(clip(VALVE_1, Domain.SOURCE, "pat_01" if i < 6 else "", i) for i in range(9)),
    *(clip(VALVE_0, Domain.TARGET, "pat_02", i) for i in range(3)),
    *(clip(VALVE_1, Domain.TARGET, "pat_01", i) for i in range(2)),
    *(clip(FAN, Domain.SOURCE, "noAttribute", i) for i in range(8)),
)
CLASSES: tuple[AttributeClass, ...] = (
    ("valve", "pat_00"),
    ("valve", "pat_01"),
    ("valve", NO_ATTRIBUTE, "01"),
    ("fan", NO_ATTRIBUTE, "00"),
)


def centers_of(sub_clusters: int, *, attributes: bool = True, seed: int = 1) -> MemberCenters:
    random = np.random.default_rng(seed)
    return MemberCenters(
        sections={key: unit(random.normal(size=(sub_clusters, D))) for key in (VALVE_0, VALVE_1, FAN)},
        attributes={name: unit(random.normal(size=(sub_clusters, D))) for name in CLASSES} if attributes else {},
        sub_clusters=sub_clusters,
    )


MEMBERS = (centers_of(1), centers_of(3, seed=2), centers_of(2, attributes=False, seed=3))


@pytest.fixture(scope="module")
def training() -> TrainingSet:
    return training_set(CLIPS, len(MEMBERS))


def fit(
    training: TrainingSet, members: Sequence[MemberCenters] = MEMBERS, advance: Callable[[int], None] = lambda _: None
) -> dict[SectionKey, SectionModel]:
    return fit_sections(training, members, FITTING, advance=advance)


@pytest.fixture(scope="module")
def models(training: TrainingSet) -> dict[SectionKey, SectionModel]:
    return fit(training)


def assert_equal(found: Normality | None, expected: Normality) -> None:
    assert found is not None
    for name, values in expected.to_arrays().items():
        np.testing.assert_array_equal(found.to_arrays()[name], values)


def where(condition: Callable[[Recording], bool]) -> list[int]:
    return [row for row, clip in enumerate(CLIPS) if condition(clip.recording)]


def test_every_section_has_a_model_of_every_member(models: dict[SectionKey, SectionModel]) -> None:
    assert list(models) == sorted([VALVE_0, VALVE_1, FAN])
    assert {len(model.members) for model in models.values()} == {len(MEMBERS)}
    assert all(map(held_once, models.values())), "a full ensemble has gigabytes of them"


@pytest.mark.parametrize("key", [VALVE_0, VALVE_1, FAN])
@pytest.mark.parametrize("member", range(len(MEMBERS)))
def test_a_section_mixture_is_of_its_source_clips(
    training: TrainingSet, models: dict[SectionKey, SectionModel], key: SectionKey, member: int
) -> None:
    """Started at the section's centres of that member; no target clip takes part."""
    rows = where(lambda one: one.key == key and one.domain is Domain.SOURCE)
    centers = MEMBERS[member]
    expected = fit_mixture(
        training.embeddings[rows, member], centers.sub_clusters, centers=centers.sections[key], seed=SEED
    )
    assert_equal(models[key].members[member].section, expected)


@pytest.mark.parametrize(
    ("text", "name"),
    [("pat_00", ("valve", "pat_00")), ("pat_01", ("valve", "pat_01")), (NO_ATTRIBUTE, ("valve", NO_ATTRIBUTE, "01"))],
)
def test_an_attribute_mixture_is_of_all_source_clips_of_its_class(
    training: TrainingSet, models: dict[SectionKey, SectionModel], text: str, name: AttributeClass
) -> None:
    """Merged over the sections of the machine type; without an attribute head seeded k-means starts it."""
    rows = where(lambda one: one.domain is Domain.SOURCE and one.attribute_class == name)
    key = VALVE_0 if text == "pat_00" else VALVE_1
    for member, centers in enumerate(MEMBERS):
        expected = fit_mixture(
            training.embeddings[rows, member],
            centers.sub_clusters,
            centers=centers.attributes[name] if member < 2 else None,
            seed=SEED,
        )
        assert_equal(models[key].members[member].attributes[text], expected)


def test_a_section_has_the_attributes_of_its_own_source_clips(models: dict[SectionKey, SectionModel]) -> None:
    """The paper's a(s(x)): none of the target clips', none of another section's."""
    for member in range(len(MEMBERS)):
        first, second, fan = (models[key].members[member] for key in (VALVE_0, VALVE_1, FAN))
        assert list(first.attributes) == ["pat_00", "pat_01"]
        assert sorted(second.attributes) == [NO_ATTRIBUTE, "pat_01"]
        assert list(fan.attributes) == [NO_ATTRIBUTE]
        assert_equal(first.attributes["pat_01"], second.attributes["pat_01"])


def test_a_target_mixture_needs_three_clips(training: TrainingSet, models: dict[SectionKey, SectionModel]) -> None:
    rows = where(lambda one: one.key == VALVE_0 and one.domain is Domain.TARGET)
    assert len(rows) == 3
    for member in range(len(MEMBERS)):
        assert_equal(models[VALVE_0].members[member].target, clip_mixture(training.embeddings[rows, member]))
        assert models[VALVE_1].members[member].target is None
        assert models[FAN].members[member].target is None


def test_a_target_mixture_has_fifty_components_at_most() -> None:
    """FACTS 5; of an hour of target clips the first, the last, and those evenly between."""
    clips = (*CLIPS[:16], *(clip(VALVE_0, Domain.TARGET, "pat_02", i) for i in range(120)))
    training = training_set(clips, len(MEMBERS))
    target = fit(training)[VALVE_0].members[0].target
    assert isinstance(target, Mixture)
    assert target.n_components == 50
    own = training.embeddings[16:, 0]
    np.testing.assert_array_equal(target.means[[0, -1]], own[[0, -1]])
    places = [int(np.flatnonzero((own == mean).all(axis=1))[0]) for mean in target.means]
    assert set(np.diff(places)) == {2, 3}


def test_components_that_em_empties_are_counted() -> None:
    """The second centre lies opposite all clips: one component of each section, and one of the class they share."""
    pole = np.eye(D)[0]
    clips = [clip(key, Domain.SOURCE, "pat_01", i) for key in (VALVE_0, VALVE_1) for i in range(10)]
    near = unit(pole + 0.1 * np.random.default_rng(0).normal(size=(len(clips), 1, D))).astype(np.float32)
    training = TrainingSet(clips, near, np.zeros((len(clips), MELS)))
    opposite = MemberCenters(
        sections=dict.fromkeys((VALVE_0, VALVE_1), np.stack([pole, -pole])),
        attributes={("valve", "pat_01"): np.stack([pole, -pole])},
        sub_clusters=2,
    )
    assert dropped_components(training, fit(training, [opposite]), [opposite]) == 3
    few = training.take(np.array([0, 10]))
    assert dropped_components(few, fit(few, [opposite]), [opposite]) == 0, "no more clips than centres: all are means"


def test_temporal_maxima_are_one_gaussian_an_attribute(
    training: TrainingSet, models: dict[SectionKey, SectionModel]
) -> None:
    """Of the source clips of the machine types that ask for them, in float64: mean and covariance + reg * I."""
    assert models[FAN].temporal_maximum is None
    first, second = models[VALVE_0].temporal_maximum, models[VALVE_1].temporal_maximum
    assert first is not None
    assert second is not None
    assert list(first) == ["pat_00", "pat_01"]
    assert sorted(second) == [NO_ATTRIBUTE, "pat_01"]
    rows = where(lambda one: one.domain is Domain.SOURCE and one.attribute_class == ("valve", "pat_01"))
    gaussian = first["pat_01"]
    assert gaussian is second["pat_01"]
    assert gaussian.means.dtype == np.float64
    x = training.t_max[rows]
    np.testing.assert_allclose(gaussian.means[0], x.mean(axis=0))
    _, expected = np.linalg.slogdet(np.cov(x, rowvar=False, ddof=0) + 1e-3 * np.eye(MELS))
    np.testing.assert_allclose(gaussian.log_determinants[0], expected)


def test_contrast_copies_enter_no_section(training: TrainingSet, models: dict[SectionKey, SectionModel]) -> None:
    """The same mixtures to the last bit with copies of every clip at other speeds among the clips."""
    copies = [replace(one, speed=0.89) for one in CLIPS]
    more = training_set(copies, len(MEMBERS), seed=9)
    whole = TrainingSet(
        [*copies, *CLIPS],
        np.concatenate([more.embeddings, training.embeddings]),
        np.concatenate([more.t_max, training.t_max]),
    )
    for key, model in fit(whole).items():
        for found, expected in zip(model.members, models[key].members, strict=True):
            assert_equal(found.section, expected.section)
            for text, mixture in expected.attributes.items():
                assert_equal(found.attributes[text], mixture)
            assert (found.target is None) == (expected.target is None)


def test_the_seed_decides_what_has_no_centres(training: TrainingSet, models: dict[SectionKey, SectionModel]) -> None:
    """Equal seeds, equal models; another seed changes k-means' starts at most."""
    again = fit(training)
    other = fit_sections(training, MEMBERS, replace(FITTING, seed=SEED + 1), advance=lambda _: None)
    for key, model in models.items():
        for member, one in enumerate(model.members):
            assert_equal(again[key].members[member].section, one.section)
            assert_equal(other[key].members[member].section, one.section)
            for text, mixture in one.attributes.items():
                assert_equal(again[key].members[member].attributes[text], mixture)


def test_the_bar_moves_by_the_clips(training: TrainingSet) -> None:
    steps: list[int] = []
    fit(training, advance=steps.append)
    assert len(steps) == len(MEMBERS)
    assert sum(steps) == len(CLIPS)


def test_a_section_without_source_clips_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    lonely = [*CLIPS[:16], *(clip(SectionKey("valve", "07"), Domain.TARGET, "pat_00", i) for i in range(3))]
    with caplog.at_level(logging.WARNING, "training.backends"):
        models = fit(training_set(lonely, len(MEMBERS)))
    assert list(models) == [VALVE_0]
    assert "valve section 07 has target clips only" in caplog.text


def test_what_does_not_fit_together_is_refused(training: TrainingSet) -> None:
    with pytest.raises(ValueError, match="of 3 members, not of 2"):
        fit(training, MEMBERS[:2])
    with pytest.raises(ValueError, match="L2-normalised"):
        TrainingSet(CLIPS, 2 * training.embeddings, training.t_max)
    with pytest.raises(ValueError, match="clips need embeddings"):
        TrainingSet(CLIPS[1:], training.embeddings, training.t_max)
    with pytest.raises(ValueError, match="clips need embeddings"):
        TrainingSet(CLIPS, training.embeddings, training.t_max[1:])
    others = {name: centers for name, centers in MEMBERS[0].attributes.items() if name != ("valve", "pat_01")}
    forgetful = replace(MEMBERS[0], attributes=others)
    with pytest.raises(KeyError, match="pat_01"):
        fit(training, (forgetful, *MEMBERS[1:]))


@pytest.mark.parametrize("backend", [Backend.NEAREST, Backend.CENTERS])
def test_references_are_of_the_section_and_its_target_clips(training: TrainingSet, backend: Backend) -> None:
    """No attributes, no temporal maxima; the source clips of up to sixteen, scaled by their density or not at all."""
    fitting = replace(FITTING, backend=backend, target_smote=2)
    found = fit_sections(training, MEMBERS, fitting, advance=lambda _: None)
    neighbours = DENSITY_NEIGHBOURS if backend is Backend.NEAREST else 0
    for key, model in found.items():
        rows = where(lambda one, key=key: one.key == key and one.domain is Domain.SOURCE)  # type: ignore[misc]
        assert model.temporal_maximum is None
        for i, member in enumerate(model.members):
            assert not member.attributes
            assert_equal(member.section, refer_to(training.embeddings[rows, i], neighbours=neighbours))
    targets = where(lambda one: one.key == VALVE_0 and one.domain is Domain.TARGET)
    for i, member in enumerate(found[VALVE_0].members):
        x = training.embeddings[targets, i]
        assert member.target is not None
        assert_equal(member.target, target_normality(member.section, x, synthetic=2))
    assert found[VALVE_1].members[0].target is None, "two target clips are too few"
    assert dropped_components(training, found, MEMBERS) == 0


def test_centers_of_many_clips_are_sixteen_means() -> None:
    """Each the direction of the mean of the clips nearest to it: k-means has converged."""
    clips = [clip(FAN, Domain.SOURCE, "noAttribute", i) for i in range(120)]
    training = training_set(clips, 1)
    fitting, members = Fitting(seed=SEED, backend=Backend.CENTERS), MEMBERS[:1]
    (model,) = fit_sections(training, members, fitting, advance=lambda _: None).values()
    references, x = model.members[0].section, training.embeddings[:, 0].astype(np.float64)
    assert isinstance(references, References)
    assert references.points.shape == (CENTERS, D)
    assert (references.scales == 1.0).all()
    means = KMeans(CENTERS, n_init=10, random_state=SEED).fit(training.embeddings[:, 0]).cluster_centers_
    np.testing.assert_allclose(references.points, unit(means), atol=1e-6)
    nearest = ((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    for place, mean in enumerate(means):
        np.testing.assert_allclose(x[nearest == place].mean(axis=0), mean, atol=1e-5)
    (again,) = fit_sections(training, members, fitting, advance=lambda _: None).values()
    assert_equal(again.members[0].section, references)


def test_many_fits_are_spread_over_processes_and_stay_the_same(
    training: TrainingSet, models: dict[SectionKey, SectionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process fits is, to the last bit, what this one fits; so the number of cores decides nothing."""
    asked: list[int | None] = []

    def watched(function: Callable[[Any], Any], tasks: Any, workers: int | None) -> Any:
        asked.append(workers)
        return spread(function, tasks, workers)

    monkeypatch.setattr("training.backends.spread", watched)
    monkeypatch.setattr("training.backends.WORTH_PROCESSES", 1)
    monkeypatch.setattr("training.parallel.cores", lambda: 2)
    spread_out = fit(training)
    assert asked == [None]
    for key, model in models.items():
        for found, expected in zip(spread_out[key].members, model.members, strict=True):
            assert_equal(found.section, expected.section)
            assert found.attributes.keys() == expected.attributes.keys()
            for name, mixture in expected.attributes.items():
                assert_equal(found.attributes[name], mixture)
