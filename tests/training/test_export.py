"""Exported embedders: ONNX Runtime and Keras agree, at any batch size, from raw decibels."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models.errors import BundleError
from models.vocabulary import LossChoice
from tests.training.small import embedder_of, run_python, small_store
from training import export
from training.export import export_embedder, member_name
from training.fit import Snapshot
from training.networks import build_embedder
from training.recipe import Network, ServedWeights


def trained_like_snapshot(*, rising: bool = False) -> Snapshot:
    """Weights with gains and statistics as after training, negative gains among them unless they are ``rising``."""
    random = np.random.default_rng(11)
    embedder = build_embedder([0.0] * 128, [1.0] * 128)
    for variable in embedder.variables:
        if variable.path.endswith("moving_variance"):
            variable.assign(random.uniform(0.3, 3.0, variable.shape))
        elif variable.path.endswith(("gamma", "beta", "moving_mean", "bias")):
            values = random.normal(0.3, 0.5, variable.shape)
            variable.assign(np.abs(values) if rising and variable.path.endswith("gamma") else values)
    weights = tuple(np.asarray(variable) for variable in embedder.variables)
    return Snapshot(Network(LossChoice.BOTH_HEADS, 16), 400, 400, False, ServedWeights.LAST, weights, {}, {})


@pytest.mark.parametrize("rising", [False, True])
def test_onnx_agrees_with_keras_at_any_batch_size(tmp_path: Path, rising: bool) -> None:
    """Dynamic first axis named ``clips``; the standardisation is inside; written whole."""
    snapshot, store = trained_like_snapshot(rising=rising), small_store()
    path = tmp_path / f"{member_name(snapshot)}.onnx"
    difference = export_embedder(snapshot, embedder_of(store), path, store.log_mels[:3])
    assert path.name == "both-heads-s16-e0400.onnx"
    assert difference < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["clips", 313, 128]
    assert session.get_outputs()[0].shape == ["clips", 128]
    embedder = build_embedder(store.mean.tolist(), store.deviation.tolist())
    for variable, value in zip(embedder.variables, snapshot.weights, strict=True):
        variable.assign(value)
    for n_clips in (1, 5):
        found = session.run(None, {session.get_inputs()[0].name: store.log_mels[:n_clips]})[0]
        expected = np.asarray(embedder(store.log_mels[:n_clips], training=False))
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("rising", [False, True])
def test_convolutions_keep_their_layout_from_the_first_to_the_last(tmp_path: Path, rising: bool) -> None:
    """ONNX Runtime comes back from its blocked layout once, at the end, and no addition is left by itself."""
    snapshot, store = trained_like_snapshot(rising=rising), small_store()
    export_embedder(snapshot, embedder_of(store), tmp_path / "embedder.onnx", store.log_mels[:1])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4  # it warns that such a file is for this machine alone
    onnxruntime.InferenceSession(tmp_path / "embedder.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["Conv"] + kinds["FusedConv"] > 20
    if kinds["ReorderOutput"]:  # a processor for which there is such a layout
        assert kinds["ReorderInput"] + kinds["ReorderOutput"] == 1
        assert not kinds.keys() & {"LeakyRelu", "Add"}


def test_a_network_trained_on_jax_is_exported_too(tmp_path: Path) -> None:
    """With Keras on JAX, a process of its own with Keras on TensorFlow writes the graph; both then agree."""
    code = f"""
        from pathlib import Path
        import keras
        from tests.training.small import embedder_of, small_store
        from tests.training.test_export import trained_like_snapshot
        from training.export import export_embedder
        if __name__ == "__main__":
            assert keras.backend.backend() == "jax"
            store = small_store()
            path = Path({str(tmp_path)!r}) / "member.onnx"
            export_embedder(trained_like_snapshot(), embedder_of(store), path, store.log_mels[:2])
    """
    result = run_python(code, KERAS_BACKEND="jax")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "member.onnx").exists()


def test_an_embedder_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tolerance below rounding the check must refuse, and name the file."""
    snapshot, store = trained_like_snapshot(), small_store()
    monkeypatch.setattr(export, "TOLERANCE", 1e-12)
    with pytest.raises(BundleError, match=r"member\.onnx: the exported embedder differs from Keras"):
        export_embedder(snapshot, embedder_of(store), tmp_path / "member.onnx", store.log_mels[:2])
    assert not list(tmp_path.iterdir())
