"""EM of the paper's whole ensemble on DCASE 2021, by the project's own back end, on embeddings of its shape and number.

``python -m tests.training.bench_mixtures`` fits what one loss configuration of seven machine types takes: of each type
six sections of 990 source clips, their attribute classes merged over sections, for twenty members (four snapshots of
each S in 1, 2, 4, 8, 16). ``--types N`` stops after so many machine types and projects. Embeddings are drawn about
class centres that stand for the network's: EM's cost lies in shapes and iterations, not in sounds.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.vocabulary import Domain, SectionKey, Split
from training.backends import Fitting, MemberCenters, TrainingSet, fit_sections
from training.features import TrainingClip
from training.parallel import cores
from training.recordings import AttributeClass, Recording

TYPES, SECTIONS, CLIPS, ATTRIBUTES, SNAPSHOTS = 7, 6, 990, 28, 4
SUB_CLUSTERS = (1, 2, 4, 8, 16)
SPREAD = 0.04
"""Of a clip about its centre, a value: a cosine of about 0.9 to it."""


def made(random: np.random.Generator) -> tuple[TrainingSet, list[MemberCenters]]:
    """One machine type: its clips, and what its members have learned."""
    keys = [SectionKey("pump", f"{i:02d}") for i in range(SECTIONS)]
    clips = [
        TrainingClip(
            Recording(
                path=Path(f"{key.section}-{i:04d}"),
                machine_type=key.machine_type,
                section=key.section,
                domain=Domain.SOURCE,
                split=Split.TRAIN,
                condition=None,
                attribute=f"a{(i + 5 * place) % ATTRIBUTES:02d}",
                recording=f"{key.section}-{i:04d}",
                challenge=True,
            ),
            0.0,
            1.0,
        )
        for place, key in enumerate(keys)
        for i in range(CLIPS)
    ]
    classes: list[AttributeClass] = sorted({clip.recording.attribute_class for clip in clips})
    members, columns = [], []
    for sub_clusters in SUB_CLUSTERS * SNAPSHOTS:
        centers = random.normal(size=(len(keys) + len(classes), sub_clusters, 128))
        centers /= np.linalg.norm(centers, axis=-1, keepdims=True)
        place = [keys.index(clip.recording.key) for clip in clips]
        x = centers[place, random.integers(sub_clusters, size=len(clips))]
        x = x + SPREAD * random.normal(size=x.shape)
        columns.append((x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32))
        own = dict(zip(keys, centers, strict=False)), dict(zip(classes, centers[len(keys) :], strict=True))
        members.append(MemberCenters(*own, sub_clusters))
    return TrainingSet(clips, np.stack(columns, axis=1), np.zeros((len(clips), 128))), members


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", type=int, default=TYPES, choices=range(1, TYPES + 1))
    types = parser.parse_args().types
    took_s, mixtures = 0.0, 0
    with tqdm(total=types * SECTIONS * CLIPS, unit="clip") as bar:
        for seed in range(types):
            training, members = made(np.random.default_rng(seed))
            begun = time.perf_counter()
            models = fit_sections(training, members, Fitting(seed=0), advance=bar.update)
            took_s += time.perf_counter() - begun
            mixtures += len(members) * (len(models) + ATTRIBUTES)
    print(
        f"{mixtures} mixtures in {took_s:.0f} s on {cores()} cores"
        + (f", all {TYPES} types: {took_s / types * TYPES:.0f} s projected" if types < TYPES else "")
    )


if __name__ == "__main__":
    main()
