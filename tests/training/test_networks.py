"""The embedder against Table 1 and the counts that FACTS derives from it."""

import numpy as np
import pytest

from training.networks import Standardisation, build_embedder

TABLE_1 = {
    "stem_normalise": (157, 64, 16),
    "stem_pool": (78, 31, 16),
    "block_1_unit_2_normalise_2": (78, 31, 16),
    "block_2_unit_2_normalise_2": (39, 16, 32),
    "block_3_unit_2_normalise_2": (20, 8, 64),
    "block_4_unit_2_normalise_2": (10, 4, 128),
    "temporal_maximum": (1, 4, 128),
    "flatten": (512,),
    "representation": (128,),
}


def test_sizes_are_table_1s() -> None:
    """Every row of the paper's table."""
    embedder = build_embedder([0.0] * 128, [1.0] * 128)
    assert embedder.input_shape == (None, 313, 128)
    assert {name: embedder.get_layer(name).output.shape[1:] for name in TABLE_1} == TABLE_1


def test_parameters_and_statistics() -> None:
    """766,944 trainable parameters, 1,952 batch-norm statistics, nothing else."""
    embedder = build_embedder([0.0] * 128, [1.0] * 128)
    assert sum(int(np.prod(v.shape)) for v in embedder.trainable_variables) == 766_944
    assert sum(int(np.prod(v.shape)) for v in embedder.non_trainable_variables) == 1_952


def test_multiply_adds_of_a_clip() -> None:
    """About 92.6 million, counted from the layers' own shapes."""
    embedder = build_embedder([0.0] * 128, [1.0] * 128)
    total = 0
    for layer in embedder.layers:
        if layer.name.endswith("representation") or "convolution" in layer.name or layer.name.endswith("_shortcut"):
            places = int(np.prod(layer.output.shape[1:-1]))
            total += places * int(np.prod(layer.kernel.shape))
    assert total == pytest.approx(92.6e6, rel=0.005)


def test_standardisation_is_the_first_layer() -> None:
    """(x - mean) / (deviation + 1e-12), and raw decibels may go in."""
    mean, deviation = np.linspace(-60, -20, 128), np.linspace(4, 9, 128)
    layer = Standardisation(mean.tolist(), deviation.tolist())
    log_mels = np.random.default_rng(0).normal(-40, 8, (2, 313, 128)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(layer(log_mels)), (log_mels - mean) / (deviation + 1e-12), atol=1e-5)
    assert isinstance(build_embedder(mean.tolist(), deviation.tolist()).layers[1], Standardisation)


def test_kernels_alone_are_regularised() -> None:
    """L2 of 1e-5 on every convolution and the dense layer, on no bias, gain or shift."""
    embedder = build_embedder([0.0] * 128, [1.0] * 128)
    kernels = [v for v in embedder.trainable_variables if v.path.endswith("/kernel")]
    regularised = [v for v in embedder.trainable_variables if getattr(v, "regularizer", None) is not None]
    assert {v.path for v in regularised} == {v.path for v in kernels}
    assert len(kernels) == 1 + 16 + 3 + 1
    expected = 1e-5 * sum(float(np.sum(np.square(np.asarray(v)))) for v in kernels)
    assert float(sum(float(loss) for loss in embedder.losses)) == pytest.approx(expected, rel=1e-4)
