"""Recipes and schedules."""

import json

import pytest

from models.vocabulary import LossChoice
from training.recipe import RECIPES


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
