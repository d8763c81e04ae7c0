"""Steps a second of a network's training here beside Keras' plain ``model.fit`` with the same network, in turns.

``python -m tests.training.bench_training`` trains the embedder of S = 16 with both heads on drawn log-mels, batches of
64: once as a run does it (clips from a memory map, read one batch ahead; running average, losses and scales looked at
in each step), once by ``model.fit`` on arrays in memory. Both in one process, in turns; medians of the rounds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from training.fit import Lesson, RunningAverage, batches, build_training_model, train_epoch
from training.labels import Labels
from training.networks import build_embedder
from training.recipe import RECIPES, Schedule

CLIPS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each, a round")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    recipe = RECIPES["quick"]
    (network,) = recipe.networks
    schedule = Schedule(options.steps, (10_000,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log_mels.npy"
        np.save(path, random.normal(-50.0, 10.0, size=(CLIPS, 313, 128)).astype(np.float32))
        log_mels = np.load(path, mmap_mode="r")
        labels = Labels(
            section_ids=random.integers(6, size=CLIPS).astype(np.int32),
            attribute_ids=random.integers(24, size=CLIPS).astype(np.int32),
            section_classes=tuple(("pump", f"{i:02d}") for i in range(6)),
            attribute_classes=tuple(("pump", f"a{i:02d}") for i in range(24)),
        )
        lesson = Lesson(log_mels, np.arange(CLIPS), labels, lambda: build_embedder([-50.0] * 128, [10.0] * 128))
        embedder = lesson.build()
        model, heads = build_training_model(embedder, labels, network, recipe)
        average = RunningAverage([*embedder.variables, *(head.centers for head in heads)])
        n = options.steps * recipe.batch_size
        every = np.asarray(log_mels)

        def ours(epoch: int) -> None:
            read = batches(lesson, network, recipe, schedule, 0, epoch)
            train_epoch(model, heads, read, epoch, average, lambda _: None, limit=64.0)

        def plain(epoch: int) -> None:
            rows = np.random.default_rng(epoch).permutation(CLIPS)[:n]
            shares = np.random.default_rng(epoch).uniform(size=(n, 1)).astype(np.float32)
            x = [every[rows], shares, labels.section_ids[rows], labels.attribute_ids[rows]]
            model.fit(x, [np.zeros(n, np.float32)] * 2, batch_size=recipe.batch_size, verbose=0, shuffle=True)

        seconds: dict[str, list[float]] = {"ours": [], "model.fit": []}
        for epoch in range(options.rounds + 1):
            for name, train in (("ours", ours), ("model.fit", plain)):
                begun = time.perf_counter()
                train(epoch)
                if epoch:  # the first builds the graph
                    seconds[name].append((time.perf_counter() - begun) / options.steps)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<10} {1000 * median:7.0f} ms a step (least {1000 * min(seconds[name]):.0f})")
    ratios = np.array(seconds["model.fit"]) / np.array(seconds["ours"])
    print(f"ours does {np.median(ratios):.2f} steps in the time of one of model.fit ({keras.backend.backend()})")


if __name__ == "__main__":
    main()
