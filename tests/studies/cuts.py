"""Parts of a set of recordings as manifests: sections cut to a few clips, one machine alone, all but one section."""

import csv
import io
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from models.vocabulary import Domain, SectionKey, Split
from training.manifests import COLUMNS
from training.recordings import Place, Recording
from training.storage import write_atomically


def cut_to(recordings: Iterable[Recording], n: int, seed: int) -> list[Recording]:
    """``n`` training clips of the source domain of each section that has more, drawn by ``seed``; all else stays."""
    by_place: defaultdict[Place, list[Recording]] = defaultdict(list)
    kept: list[Recording] = []
    for recording in recordings:
        cut = recording.split is Split.TRAIN and recording.domain is Domain.SOURCE
        (by_place[recording.place] if cut else kept).append(recording)
    for place, own in by_place.items():
        random = np.random.default_rng([seed, n, zlib.crc32("/".join(place).encode())])
        drawn = random.permutation(len(own))[:n]
        kept += [own[row] for row in sorted(drawn)]
    return sorted(kept)


def of_section(recordings: Iterable[Recording], key: SectionKey) -> list[Recording]:
    """One machine alone."""
    return [recording for recording in recordings if recording.key == key]


def without(recordings: Iterable[Recording], key: SectionKey) -> list[Recording]:
    """All other machines."""
    return [recording for recording in recordings if recording.key != key]


def write_manifest(path: Path, recordings: Sequence[Recording]) -> None:
    """The recordings as a manifest, with paths relative to it, as `training.manifests` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS[:-1])
    base = path.parent.resolve()
    for one in recordings:
        row = (one.machine_type, one.section, one.domain, one.split, one.condition or "", one.attribute)
        writer.writerow((os.path.relpath(one.path, base), *row))
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
