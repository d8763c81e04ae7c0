"""The rearranged graph: the same embeddings, in the form that ONNX Runtime need not leave its layout for."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.graphs import rearrange

TIME, MEL, CHANNELS = 9, 7, 4


def graph(pads: Sequence[int], strides: Sequence[int]) -> onnx.ModelProto:
    """As tf2onnx writes it: an image, a convolution, a batch norm as Mul and Add, a pool, channels last, flattened."""
    random = np.random.default_rng(3)

    def constant(name: str, value: NDArray[np.generic]) -> TensorProto:
        return numpy_helper.from_array(value, name)

    kernel = random.normal(size=(CHANNELS, 1, 3, 2)).astype(np.float32)
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Reshape", ["log_mel", "image_shape"], ["image"]),
                helper.make_node("Conv", ["image", "kernel"], ["convolved"], pads=pads, strides=strides),
                helper.make_node("LeakyRelu", ["convolved"], ["rectified"], alpha=0.1),
                helper.make_node("Mul", ["rectified", "gain"], ["scaled"]),
                helper.make_node("Add", ["scaled", "offset"], ["normalised"]),
                helper.make_node("MaxPool", ["normalised"], ["pooled"], kernel_shape=[2, 1], strides=[2, 1]),
                helper.make_node("Transpose", ["pooled"], ["channels_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Shape", ["channels_last"], ["shape"]),
                helper.make_node("Slice", ["shape", "zero", "one"], ["count"]),
                helper.make_node("Concat", ["count", "rest"], ["flat_shape"], axis=0),
                helper.make_node("Reshape", ["channels_last", "flat_shape"], ["flat"]),
            ],
            "embedder",
            [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["clips", TIME, MEL])],
            [helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["clips", None])],
            [
                constant("image_shape", np.array([-1, 1, TIME, MEL], np.int64)),
                constant("kernel", kernel),
                constant("gain", random.normal(size=(1, CHANNELS, 1, 1)).astype(np.float32)),
                constant("offset", random.normal(size=(1, CHANNELS, 1, 1)).astype(np.float32)),
                constant("zero", np.array([0], np.int64)),
                constant("one", np.array([1], np.int64)),
                constant("rest", np.array([-1], np.int64)),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def values(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"log_mel": x})[0]
    return found


@pytest.mark.parametrize(("pads", "strides"), [((0, 0, 0, 0), (1, 1)), ((2, 0, 1, 1), (2, 1)), ((0, 1, 2, 0), (1, 2))])
def test_values_stay_where_time_is_innermost(pads: Sequence[int], strides: Sequence[int]) -> None:
    """Whatever the padding at the four sides and the strides: kernels, pools and the flattening are turned alike."""
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model = graph(pads, strides)
    expected = values(model, x)
    rearrange(model)
    np.testing.assert_allclose(values(model, x), expected, rtol=0, atol=1e-5)


def test_the_batch_norm_is_one_operation_and_no_shape_is_computed() -> None:
    """What is left has nothing that leaves the blocked layout, and no constant that nothing uses."""
    model = graph((0, 0, 0, 0), (1, 1))
    rearrange(model)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 1
    assert not kinds.keys() & {"Mul", "Add", "Shape", "Slice", "Concat"}
    used = {name for node in model.graph.node for name in node.input}
    assert {one.name for one in model.graph.initializer} <= used


def test_a_graph_without_convolutions_stays() -> None:
    """Networks on statistics have neither images nor batch norms by channel."""
    model = graph((0, 0, 0, 0), (1, 1))
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    before = model.SerializeToString()
    rearrange(model)
    assert model.SerializeToString() == before
