"""How much slower the naive way is with graphs as tf2onnx writes them; the bench's runs the bundle's, rearranged.

``python -m tests.studies.naive_graphs [--rounds N] [--members N]``: the paper's network, untrained, is exported both
ways; bundles of each are made up as the bench makes them; one clip at a time, in processes that take turns.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import keras
import numpy as np

from models.bundle import read_bundle, write_bundle
from models.vocabulary import LossChoice
from service.bench.contender import Contender
from service.bench.workload import write_made_bundle
from tests.training.small import embedder_of, small_store
from training import export
from training.fit import Snapshot
from training.recipe import Network, ServedWeights

DEMONSTRATION = Path(__file__).parents[2] / "models" / "bundles" / "demonstration"
THREADS = 2
CLIPS = 1000


def write_embedders(folder: Path) -> tuple[bytes, bytes]:
    """The same network as tf2onnx writes it, and rearranged."""
    store = small_store()
    build = embedder_of(store)
    keras.utils.set_random_seed(2021)
    weights = tuple(np.asarray(variable) for variable in build().variables)
    network = Network(LossChoice.BOTH_HEADS, 1)
    snapshot = Snapshot(network, 1, 1, False, ServedWeights.LAST, weights, {}, {})
    rearranged, written = folder / "rearranged.onnx", folder / "written.onnx"
    export.export_embedder(snapshot, build, rearranged, store.log_mels[:2])
    with patch.object(export, "rearrange", lambda model: None):
        export.export_embedder(snapshot, build, written, store.log_mels[:2])
    assert written.read_bytes() != rearranged.read_bytes(), "KERAS_BACKEND=tensorflow exports in this very process"
    return written.read_bytes(), rearranged.read_bytes()


def write_made(folder: Path, embedder: bytes, members: int) -> Path:
    """A made-up bundle of one network, again and again."""
    known = read_bundle(DEMONSTRATION)
    one = write_bundle(folder / "one", replace(known, embedders=dict.fromkeys(known.embedders, embedder)))
    assert one.folder is not None
    write_made_bundle(folder / "many", one.folder, members, CLIPS)
    return folder / "many"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--members", type=int, default=20)
    asked = parser.parse_args(arguments)
    with TemporaryDirectory() as place, ExitStack() as stack:
        root = Path(place)
        written, rearranged = (
            write_made(root / str(number), embedder, asked.members)
            for number, embedder in enumerate(write_embedders(root))
        )
        ways = {
            name: stack.enter_context(Contender(name, way, bundle, threads=THREADS, blas_threads=blas_threads))
            for name, way, bundle, blas_threads in (
                ("ours", "ours", rearranged, 1),
                ("naive, graphs as written", "naive", written, None),
                ("naive, graphs rearranged", "naive", rearranged, None),
                ("naive, graphs as written, one BLAS thread", "naive", written, 1),
            )
        }
        rounds = [{name: way.ask("run", batch=1) for name, way in ways.items()} for _ in range(asked.rounds)]
    for name in ways:
        wall_s = np.array([one[name]["wall_s"] for one in rounds])
        times = np.percentile([one[name]["wall_s"] / one["ours"]["wall_s"] for one in rounds], (25, 50, 75))
        scores = rounds[-1][name]["scores"][0], rounds[-1]["ours"]["scores"][0]
        print(
            f"{name}: {1e3 * np.median(wall_s):.1f} ms, {times[1]:.2f} ({times[0]:.2f}-{times[2]:.2f}) times ours; "
            f"score {scores[0] - scores[1]:.1e} nats apart"
        )


if __name__ == "__main__":
    main()
