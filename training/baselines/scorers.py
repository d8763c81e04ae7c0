"""From what was trained to what scores, by the kind of baseline."""

from collections.abc import Mapping

from training.baselines.autoencoder import AutoencoderScorer
from training.baselines.floor import FloorScorer
from training.baselines.mobilenetv2 import MobileNetV2Scorer
from training.baselines.trained import Arrays, Network, Scorer
from training.scored import SystemName


def make_scorer(kind: SystemName, networks: Mapping[str, Network], arrays: Arrays) -> Scorer:
    """The arithmetic of a trained baseline."""
    if kind is SystemName.AUTOENCODER:
        return AutoencoderScorer(networks, arrays)
    if kind is SystemName.MOBILENETV2:
        return MobileNetV2Scorer(networks, arrays)
    return FloorScorer(arrays)
