"""From snapshots to ONNX embedders with tf2onnx: dynamic batch, the standardisation as the first layer.

tf2onnx reads TensorFlow's graphs: where Keras runs on another backend, a process of its own with Keras on TensorFlow
does the work.
"""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import keras
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.errors import BundleError
from training.fit import Snapshot
from training.graphs import rearrange
from training.recipe import ServedWeights
from training.storage import write_atomically

_log = logging.getLogger(__name__)

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between Keras' and ONNX Runtime's embeddings, relative to the largest embedding value."""


def member_name(snapshot: Snapshot) -> str:
    """Names a member in the manifest and its file: network, the epoch its snapshot was due at, weights if not the last.

    One that waited was taken later, perhaps in the same epoch as the next.
    """
    averaged = "-average" if snapshot.served is ServedWeights.AVERAGE else ""
    return f"{snapshot.network.name}-e{snapshot.due:04d}{averaged}"


def export_embedder(
    snapshot: Snapshot,
    build: Callable[[], keras.Model],
    path: Path,
    probe: NDArray[np.float32],
) -> float:
    """Write one embedder as ONNX and check it against Keras; any backend may have trained the snapshot.

    Parameters
    ----------
    build : makes the network, untrained; must pickle, for it may be called in another process.
    path : the file to write; written whole or not at all.
    probe : (clips, ...) inputs on which both must agree.

    Returns
    -------
    The largest difference found, relative to the largest embedding value.

    Raises
    ------
    BundleError : where they differ by more than `TOLERANCE`.
    """
    if keras.backend.backend() == "tensorflow":
        return _export(snapshot, build, path, probe)
    with _tensorflow_for_children(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_export, snapshot, build, path, probe).result()


@contextmanager
def _tensorflow_for_children() -> Iterator[None]:
    """Processes that start meanwhile have Keras on TensorFlow."""
    own = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        yield
    finally:
        if own is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = own


def _export(
    snapshot: Snapshot,
    build: Callable[[], keras.Model],
    path: Path,
    probe: NDArray[np.float32],
) -> float:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    import tf2onnx

    with tf.device("/CPU:0"):  # a GPU's TF32 would differ from the exact result by more than the tolerance
        embedder = build()
        for variable, value in zip(embedder.variables, snapshot.weights, strict=True):
            variable.assign(value)
        expected = np.asarray(embedder(probe, training=False))
    signature = (tf.TensorSpec((None, *probe.shape[1:]), tf.float32, name=embedder.inputs[0].name),)
    model, _ = tf2onnx.convert.from_keras(embedder, input_signature=signature, opset=OPSET)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "clips"
    model.graph.name = path.stem
    rearrange(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {model.graph.input[0].name: probe})[0]
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCE:
        raise BundleError(
            path,
            f"the exported embedder differs from Keras by {difference:.1e} (at most {TOLERANCE:g} is accepted). "
            "Install the versions of constraints.txt and export again.",
        )
    write_atomically(path, lambda file: file.write(content))
    _log.info("exported %s, %.1e from Keras", path.name, difference)
    return difference
