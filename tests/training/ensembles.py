"""Ensembles without training: snapshots with drawn centres, ONNX embedders made by hand, real mixtures on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.encoder import Device, Encoder, l2_normalised
from models.vocabulary import Domain, LossChoice
from tests.models.tiny import embedder
from tests.training.report.made import CURVE
from tests.training.small import small_store
from training.assemble import assemble_bundle
from training.features import FeatureStore
from training.fit import Snapshot
from training.recipe import RECIPES, Network, Recipe, ServedWeights

Named = tuple[int, int]
"""A member of `ensemble_of`: its network's sub-clusters, and the epoch of its snapshot."""
MEMBERS: tuple[Named, ...] = ((1, 2), (1, 4), (2, 2), (2, 4), (3, 2), (3, 4))
"""Three networks of two snapshots."""


def heard_clips() -> FeatureStore:
    """Two sections of a fan with 15 source and 3 target clips each, of recordings that are on no disk."""
    store = small_store(36)
    clips = [
        replace(clip, recording=replace(clip.recording, domain=Domain.TARGET if row >= 30 else Domain.SOURCE))
        for row, clip in enumerate(store.clips)
    ]
    return replace(store, clips=tuple(clips))


def ensemble_of(members: Sequence[Named], folder: Path, work: Path, recipe: Recipe = RECIPES["smoke"]) -> Bundle:
    """Write a bundle of these members, as the last stage of a run would, and return it."""
    store = heard_clips()
    exported = []
    for sub_clusters, epoch in members:
        path = work / "embedders" / f"both-heads-s{sub_clusters}-e{epoch:04d}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(embedder(10 * sub_clusters + epoch))
        exported.append((_snapshot(sub_clusters, epoch), path))
    encoder = Encoder([path.read_bytes() for _, path in exported], device=Device.CPU, threads=1)
    embeddings = encoder.encode(store.log_mels, range(len(members)))
    encoder.close()
    facts: dict[str, Any] = {"unheard": None, "demonstration": False, "advance": lambda _: None}
    names = {snapshot.network.name for snapshot, _ in exported}
    return assemble_bundle(
        store,
        exported,
        embeddings,
        recipe,
        0,
        folder,
        work,
        limited_epochs=dict.fromkeys(names, 1),
        curves={name: dict(CURVE) for name in names},
        **facts,
    )


def _snapshot(sub_clusters: int, epoch: int) -> Snapshot:
    random = np.random.default_rng([sub_clusters, epoch])

    def centers() -> NDArray[np.float32]:
        return l2_normalised(random.normal(size=(sub_clusters, 128)).astype(np.float32))

    return Snapshot(
        network=Network(LossChoice.BOTH_HEADS, sub_clusters),
        due=epoch,
        epoch=epoch,
        limited=False,
        served=ServedWeights.LAST,
        weights=(),
        section_centers={("fan", f"{section:02d}"): centers() for section in range(2)},
        attribute_centers={("fan", f"speed_{speed}"): centers() for speed in range(3)},
    )
