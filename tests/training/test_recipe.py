"""Recipes and schedules."""

import json

import pytest

from models.errors import DataError
from models.vocabulary import LossChoice, ThresholdRule
from training.choices import SETTABLE, adjusted, departures
from training.recipe import PAPER_LOSS_CHOICE, RECIPES, Recipe


def test_the_papers_recipe_is_the_papers() -> None:
    """Ten networks, snapshots after 100, 200, 300 and 400 epochs, the loss choice of paper 2.5."""
    paper = RECIPES["paper"]
    assert [(n.heads.value, n.sub_clusters) for n in paper.networks] == [
        (heads, size) for heads in ("both heads", "sections") for size in (1, 2, 4, 8, 16)
    ]
    schedule = paper.schedule(42_248)
    assert schedule.snapshot_epochs == (100, 200, 300, 400)
    assert schedule.epoch_steps == 661
    assert (paper.batch_size, paper.learning_rate, paper.regularisation, paper.percentile) == (64, 1e-3, 1e-3, 90.0)
    assert paper.loss_of("valve") is LossChoice.SECTIONS
    assert paper.loss_of("slider") is LossChoice.BOTH_HEADS
    assert paper.loss_of("line-3-press") is LossChoice.BOTH_HEADS


@pytest.mark.parametrize("n_clips", [1, 10, 65, 454, 5_000, 42_248, 400_000])
def test_quick_takes_the_same_time_whatever_the_recordings(n_clips: int) -> None:
    """Its budget counts optimiser steps."""
    schedule = RECIPES["quick"].schedule(n_clips)
    assert schedule.steps == pytest.approx(3200, rel=0.05)
    assert len(set(schedule.snapshot_epochs)) == 4
    assert schedule.epoch_steps * 64 <= n_clips + 63


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_plain_values_in_the_manifest(name: str) -> None:
    """JSON out, JSON in."""
    as_json = json.loads(json.dumps(RECIPES[name].as_json()))
    assert as_json["name"] == name
    assert tuple(as_json["sub_clusters"]) == RECIPES[name].sub_clusters
    assert as_json["loss"] == {machine_type: choice.value for machine_type, choice in RECIPES[name].loss.items()}


SETTINGS = {
    "scale": "fixed",
    "mixup_labels": "maximum",
    "weights": "average",
    "sub_clusters": "1,4",
    "heads": "both heads,sections",
    "default_loss": "sum",
    "loss": "paper",
    "snapshots": "2",
    "steps": "800",
    "backend": "centers",
    "target_smote": "20",
}


def test_every_choice_can_be_made_otherwise_and_is_recorded() -> None:
    """Each setting alone changes its field and nothing else, stands in the manifest, and is read back from the plan."""
    assert list(SETTINGS) == [name for name in SETTABLE if name != "fold_networks"], "that is for plant alone"
    quick = RECIPES["quick"]
    assert departures(quick) == []
    together = adjusted(quick, [f"{name}={text}" for name, text in SETTINGS.items()])
    assert departures(together) == [f"{name}={text}" for name, text in SETTINGS.items()]
    assert adjusted(quick, departures(together)) == together
    for name, text in SETTINGS.items():
        companions = {"default_loss": ["heads=both heads,sections"], "loss": ["heads=both heads,sections"]}.get(
            name, []
        )
        before = adjusted(quick, companions).as_json()
        after = adjusted(quick, [*companions, f"{name}={text}"]).as_json()
        assert [field for field in after if after[field] != before[field]] == [name]
    assert together.loss == PAPER_LOSS_CHOICE
    assert together.as_json()["sub_clusters"] == [1, 4]


def test_plant_takes_the_paper_s_networks_too_and_no_other_recipe_takes_its_own() -> None:
    """Each kind is five networks by each dealing; thresholds by single clips need no second dealing."""
    plant = RECIPES["plant"]
    with_resnets = adjusted(plant, ["fold_networks=A,L,R"])
    assert (len(plant.networks), len(with_resnets.networks)) == (20, 30)
    assert with_resnets.decides_networks() == plant.decides_networks(), "those of A and L are kept"
    assert len(adjusted(plant, [], ThresholdRule.HELD_OUT).networks) == 10
    for name, settings, rule in (
        ("quick", ["backend=folds"], None),
        ("quick", ["fold_networks=A"], None),
        ("plant", ["fold_networks=F"], None),
        ("plant", ["backend=mixtures"], None),
        ("plant", [], ThresholdRule.PAPER),
        ("plant", ["precision=bfloat16"], None),
    ):
        with pytest.raises(DataError):
            adjusted(RECIPES[name], settings, rule)


def test_which_choices_need_no_training_again() -> None:
    """A trained network serves with its last weights or their average, with any back end; labels made it what it is."""
    quick = RECIPES["quick"]
    for setting in ("weights=average", "backend=nearest", "target_smote=3"):
        assert adjusted(quick, [setting]).decides_networks() == quick.decides_networks()
    for setting in ("mixup_labels=maximum", "scale=fixed", "snapshots=2"):
        assert adjusted(quick, [setting]).decides_networks() != quick.decides_networks()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("scale=loose", "published or fixed"),
        ("scale", "no NAME=VALUE"),
        ("learning_rate=1", "no NAME=VALUE with a name of scale, mixup_labels"),
        ("mixup_labels=", "weighted or maximum"),
        ("sub_clusters=0", "numbers from 1 to 64"),
        ("sub_clusters=4,4", "numbers from 1 to 64"),
        ("sub_clusters=four", "numbers from 1 to 64"),
        ("heads=sum", "'both heads', 'sections'"),
        ("loss=mine", "paper"),
        ("snapshots=17", "a number from 1 to 16"),
        ("steps=0", "a number from 1 to 1000000"),
        ("target_smote=-1", "a number from 0 to 50"),
        ("backend=trees", "mixtures or nearest or centers"),
        ("heads=sections", "set default_loss=sections and loss=none too"),
        ("default_loss=sum", None),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_those_that_can(setting: str, words: str | None) -> None:
    """In a sentence; the last one is fine, for a sum needs no network of its own."""
    if words is None:
        assert adjusted(RECIPES["quick"], [setting]).default_loss is LossChoice.SUM
        return
    with pytest.raises(DataError, match=words):
        adjusted(RECIPES["quick"], [setting])


def test_choices_that_do_not_fit_together_are_refused() -> None:
    """A clip is its own nearest reference; snapshots need epochs; epochs and steps would contradict each other."""
    with pytest.raises(DataError, match="its own nearest"):
        adjusted(RECIPES["quick"], ["backend=nearest"], ThresholdRule.PAPER)
    with pytest.raises(DataError, match="its own nearest"):
        adjusted(RECIPES["paper"], ["backend=centers"])
    assert adjusted(RECIPES["paper"], ["backend=centers"], ThresholdRule.HELD_OUT).calibration is ThresholdRule.HELD_OUT
    with pytest.raises(DataError, match="'paper' counts 400 epochs, not steps"):
        adjusted(RECIPES["paper"], ["steps=100"])
    with pytest.raises(ValueError, match="4 snapshots cannot be taken of 3 epochs"):
        Recipe(
            name="short",
            sub_clusters=(1,),
            heads=(LossChoice.BOTH_HEADS,),
            snapshots=4,
            epochs=3,
            calibration=ThresholdRule.HELD_OUT,
        )
