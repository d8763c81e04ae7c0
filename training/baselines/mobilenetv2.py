"""The challenge's MobileNetV2 of 2021: a network tells sections apart; what it does not take for its own is anomalous.

One network a machine type, on blocks of 64 frames of all its training clips. A machine type with a single section
leaves nothing to tell apart: all such types share one more network, which tells all sections of the run apart. The
anomaly score of a window is the mean over its blocks of ln((1 - p) / p), p the probability of its own section.

The official code scores a block every single frame, where it trained on one every 8, and its score has a slip of a
bracket, ln(1 - p - ln p). Here scores and thresholds take a block every 8 frames, and the score is the one that the
challenge describes, from logits, so that a sure network does not run into the end of float32.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import NotTrainable
from models.vocabulary import Domain, SectionKey
from training.baselines.examples import Examples, stack_frames
from training.baselines.trained import Arrays, Budget, Network
from training.progress import Advance

BUDGET = Budget(frames=64, hop=8, epochs=20, batch_size=32, learning_rate=1e-5)

FEW_CLIPS = 1000
FEW_CLIPS_BUDGET = replace(BUDGET, hop=32, learning_rate=3e-4)
"""Of a network of fewer clips: two cores then take minutes, and its few steps are long enough to arrive somewhere.

The official rate moves a weight by 0.5 at most in the 54,000 steps of the official data. In the 1,000 steps that 215
clips give it moves nothing: the loss stays at that of a guess (DECISIONS 2026-11-24).
"""

TOGETHER = "_together"
"""The network of all sections of the run; no machine type can have this name."""

EXAMPLE_FLOP = 6 * 15.8e6
STEP_EFFICIENCY = 0.1
SCORE_S = 0.1
"""As of `training.baselines.autoencoder`."""


def networks(clips: Mapping[SectionKey, int]) -> dict[str, Network]:
    """A network a machine type of several sections, and `TOGETHER` for the types of a single one.

    Parameters
    ----------
    clips : those to train on, by section.

    Raises
    ------
    NotTrainable : for fewer than two sections in all.
    """
    if len(clips) < 2:
        (only,) = clips
        raise NotTrainable(
            f"All training recordings are of one section, {only.machine_type} {only.section}, and mobilenetv2 learns "
            "by telling sections apart. Add recordings of another section or machine, or train the baseline "
            "'autoencoder' or 'floor'."
        )
    by_type = {name: tuple(own) for name, own in groupby(sorted(clips), key=lambda key: key.machine_type)}
    told_apart = {name: own for name, own in by_type.items() if len(own) > 1}
    if len(told_apart) < len(by_type):
        told_apart[TOGETHER] = tuple(sorted(clips))
    return {name: Network(own, _budget(sum(clips[key] for key in own))) for name, own in told_apart.items()}


def _budget(clips: int) -> Budget:
    return FEW_CLIPS_BUDGET if clips < FEW_CLIPS else BUDGET


def fit(examples: Examples, budget: Budget, folder: Path, *, seed: int, advance: Advance) -> Arrays:
    """Train one network, see `fit_network`, and give ``weight_0000``, ... in Keras' order."""
    from training.baselines.fitting import fit_network
    from training.baselines.networks import build_section_classifier

    assert examples.classes is not None
    n_classes = int(examples.classes.max()) + 1
    model = fit_network(
        lambda: build_section_classifier(budget.frames, n_classes, budget.learning_rate),
        examples,
        budget,
        folder,
        seed=seed,
        advance=advance,
    )
    return {f"weight_{i:04d}": np.asarray(variable) for i, variable in enumerate(model.weights)}


def log_odds_against(logits: NDArray[np.floating[Any]], own: int) -> NDArray[np.float64]:
    """ln((1 - p) / p) of the class ``own``: (n, classes) logits -> (n,) nats."""
    logits = np.asarray(logits, np.float64)
    others: NDArray[np.float64] = np.logaddexp.reduce(np.delete(logits, own, axis=1), axis=1)
    return others - logits[:, own]


class MobileNetV2Scorer:
    """Scores by what the networks do not take for the section's own; see `training.baselines.trained.Scorer`.

    Parameters
    ----------
    networks : of `networks`.
    arrays : of each network as `fit` gives them, under its name.
    """

    def __init__(self, networks: Mapping[str, Network], arrays: Arrays) -> None:
        from training.baselines.networks import build_section_classifier

        self._sections = {name: network.sections for name, network in networks.items()}
        self._models = {}
        for name, sections in self._sections.items():
            model = build_section_classifier(BUDGET.frames, len(sections), BUDGET.learning_rate)
            for i, variable in enumerate(model.weights):
                variable.assign(arrays[f"{name}/weight_{i:04d}"])
            self._models[name] = model

    def score(self, log_mels: NDArray[np.float32], key: SectionKey, domain: Domain) -> NDArray[np.float64]:  # noqa: ARG002
        """The mean over each window's blocks of ln((1 - p) / p): (windows, 313, 128) dB -> (windows,) nats."""
        name = key.machine_type if key.machine_type in self._sections else TOGETHER
        own = self._sections[name].index(key)
        blocks = stack_frames(log_mels, BUDGET.frames, BUDGET.hop)
        logits = self._models[name].predict_on_batch(blocks.reshape(-1, blocks.shape[-1]))
        scores: NDArray[np.float64] = log_odds_against(logits, own).reshape(blocks.shape[:2]).mean(axis=1)
        return scores
