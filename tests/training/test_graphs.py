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


def graph(pads: Sequence[int], strides: Sequence[int], *, rising: bool = False) -> onnx.ModelProto:
    """As tf2onnx writes it: an image, a convolution, a batch norm as Mul and Add, a pool, a unit with pre-activation.

    ``rising``: the first batch norm has gains above 0 in each channel; the second one's are of both signs.
    """
    random = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    def integers(name: str, *numbers: int) -> TensorProto:
        return numpy_helper.from_array(np.array(numbers, np.int64), name)

    gains = random.normal(size=(2, 1, CHANNELS, 1, 1)).astype(np.float32)
    gains[0] = np.abs(gains[0]) if rising else gains[0]
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Sub", ["log_mel", "mean"], ["centred"]),
                helper.make_node("Mul", ["centred", "precision"], ["standardised"]),
                helper.make_node("Reshape", ["standardised", "image_shape"], ["image"]),
                helper.make_node("Conv", ["image", "kernel"], ["convolved"], pads=pads, strides=strides),
                helper.make_node("LeakyRelu", ["convolved"], ["rectified"], alpha=0.1),
                helper.make_node("Mul", ["rectified", "gain"], ["scaled"]),
                helper.make_node("Add", ["scaled", "offset"], ["normalised"]),
                helper.make_node("MaxPool", ["normalised"], ["pooled"], kernel_shape=[2, 1], strides=[2, 1]),
                helper.make_node("LeakyRelu", ["pooled"], ["activated"], alpha=0.1),
                helper.make_node("Conv", ["activated", "square"], ["mapped"], pads=[1, 1, 1, 1]),
                helper.make_node("Add", ["mapped", "pooled"], ["sum"]),
                helper.make_node("Mul", ["sum", "next_gain"], ["next_scaled"]),
                helper.make_node("Add", ["next_scaled", "next_offset"], ["next_normalised"]),
                helper.make_node("MaxPool", ["next_normalised"], ["ended"], kernel_shape=[2, 1], strides=[2, 1]),
                helper.make_node("Transpose", ["ended"], ["channels_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Shape", ["channels_last"], ["shape"]),
                helper.make_node("Slice", ["shape", "zero", "one"], ["count"]),
                helper.make_node("Concat", ["count", "rest"], ["flat_shape"], axis=0),
                helper.make_node("Reshape", ["channels_last", "flat_shape"], ["flat"]),
            ],
            "embedder",
            [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["clips", TIME, MEL])],
            [helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["clips", None])],
            [
                constant("mean", MEL),
                constant("precision", MEL),
                constant("kernel", CHANNELS, 1, 3, 2),
                constant("square", CHANNELS, CHANNELS, 3, 3),
                numpy_helper.from_array(gains[0], "gain"),
                constant("offset", 1, CHANNELS, 1, 1),
                numpy_helper.from_array(gains[1], "next_gain"),
                constant("next_offset", 1, CHANNELS, 1, 1),
                integers("image_shape", -1, 1, TIME, MEL),
                integers("zero", 0),
                integers("one", 1),
                integers("rest", -1),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def values(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"log_mel": x})[0]
    return found


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize(("pads", "strides"), [((0, 0, 0, 0), (1, 1)), ((2, 0, 1, 1), (2, 1)), ((0, 1, 2, 0), (1, 2))])
def test_values_stay_where_time_is_innermost(pads: Sequence[int], strides: Sequence[int], rising: bool) -> None:
    """Whatever the padding at the four sides and the strides: kernels, pools and the flattening are turned alike.

    And whatever the signs of a batch norm's gains: one that falls in some channel stays before its pool.
    """
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model = graph(pads, strides, rising=rising)
    expected = values(model, x)
    rearrange(model)
    np.testing.assert_allclose(values(model, x), expected, rtol=0, atol=1e-5)


def test_nothing_leaves_the_blocked_layout() -> None:
    """Batch norms are one operation, each LeakyRelu follows a convolution, no shape is computed, nothing is unused."""
    model = graph((0, 0, 0, 0), (1, 1), rising=True)
    rearrange(model)
    made = {node.output[0]: node for node in model.graph.node}
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 3  # the standardisation is one
    assert {made[node.input[0]].op_type for node in model.graph.node if node.op_type == "LeakyRelu"} == {"Conv"}
    assert kinds["Add"] == 1  # of the shortcut
    assert not kinds.keys() & {"Mul", "Sub", "Shape", "Slice", "Concat"}
    used = {name for node in model.graph.node for name in node.input}
    assert {one.name for one in model.graph.initializer} <= used
    assert used <= {one.name for one in model.graph.initializer} | made.keys() | {"log_mel"}


@pytest.mark.parametrize("rising", [False, True])
def test_a_batch_norm_waits_for_the_pool_where_it_rises(rising: bool) -> None:
    """Its maximum is that of what it is made of only then; there is a quarter of it left in the paper's stem."""
    model = graph((0, 0, 0, 0), (1, 1), rising=rising)
    rearrange(model)
    made = {node.output[0]: node for node in model.graph.node}
    pools = [made[node.input[0]].op_type for node in model.graph.node if node.op_type == "MaxPool"]
    assert pools == (["LeakyRelu", "BatchNormalization"] if rising else ["BatchNormalization"] * 2)


def test_batch_norms_of_their_own_mean_and_variance_keep_their_values() -> None:
    """As another exporter writes them: with statistics, and the constant of a product first."""
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model, random = graph((0, 0, 0, 0), (1, 1), rising=True), np.random.default_rng(5)
    nodes = list(model.graph.node)
    times = next(node for node in nodes if node.op_type == "Mul")
    times.input[0], times.input[1] = times.input[1], times.input[0]
    place = next(place for place, node in enumerate(nodes) if list(node.output) == ["scaled"])
    names = ["own_scale", "own_shift", "own_mean", "own_variance"]
    for name in names:
        value = random.uniform(0.5, 2.0, CHANNELS).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    nodes[place : place + 2] = [
        helper.make_node("BatchNormalization", ["rectified", *names], ["normalised"], epsilon=0.1)
    ]
    place = next(place for place, node in enumerate(nodes) if list(node.output) == ["activated"])
    nodes.insert(place, helper.make_node("BatchNormalization", ["pooled", *names], ["again"], epsilon=0.1))
    nodes[place + 1].input[0] = "again"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    expected = values(model, x)
    rearrange(model)
    np.testing.assert_allclose(values(model, x), expected, rtol=0, atol=1e-5)
    made = {node.output[0]: node for node in model.graph.node}
    assert made["pooled"].op_type == "BatchNormalization"
    assert made[made["activated"].input[0]].op_type == "Conv"


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
