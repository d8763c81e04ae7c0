"""Embeddings of the training clips by exported networks, run by the encoder that serves them, and kept in files."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import EMBEDDING_SIZE, Device, Encoder
from models.vocabulary import Precision
from training.features import FeatureStore
from training.fit import Snapshot
from training.progress import Advance
from training.storage import write_atomically

EMBEDDING_ROWS = 512
"""Clips whose embeddings are kept in one file of the work folder."""

Member = tuple[Snapshot, Path]
"""A snapshot with its ONNX file."""


def embed(
    folder: Path, store: FeatureStore, members: Sequence[Member], precision: Precision, advance: Advance
) -> NDArray[np.float32]:
    """Embeddings of the clips at their own speed, (clips, members, 128), kept in files of `EMBEDDING_ROWS` clips."""
    embedders = [path.read_bytes() for _, path in members]
    rows = np.flatnonzero([clip.speed == 1.0 for clip in store.clips])
    _forget_embeddings_of_others(folder, store, embedders, precision)
    every = np.empty((len(rows), len(members), EMBEDDING_SIZE), np.float32)  # once: of 40 members it is a gigabyte
    with closing(Encoder(embedders, device=Device.CPU, precision=precision)) as encoder:
        for start in range(0, len(rows), EMBEDDING_ROWS):
            own = slice(start, start + EMBEDDING_ROWS)
            path = folder / f"{start:06d}.npy"
            if not path.exists():
                embeddings = encoder.encode(np.asarray(store.log_mels[rows[own]]), range(len(members)))
                write_atomically(path, partial(np.save, arr=embeddings))
            every[own] = np.load(path)
            advance(len(every[own]))
    return every


def _forget_embeddings_of_others(
    folder: Path, store: FeatureStore, embedders: Sequence[bytes], precision: Precision
) -> None:
    """Remove embeddings that other networks or other sounds gave, so that none is ever taken for these members'."""
    digests = [store.digest, *(hashlib.sha256(content).hexdigest() for content in embedders)]
    if precision is not Precision.FLOAT32:
        digests.append(precision.value)
    path, mine = folder / "of.json", json.dumps(digests, indent=1).encode()
    if path.exists() and path.read_bytes() == mine:
        return
    for stale in folder.glob("*.npy"):
        stale.unlink()
    write_atomically(path, lambda file: file.write(mine))
