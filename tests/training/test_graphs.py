"""The rearranged graph: the same embeddings, in the form that ONNX Runtime need not leave its layout for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.graphs import rearrange

TIME, MEL, CHANNELS = 9, 7, 4


def graph(
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
    *,
    rising: Sequence[bool] = (False, False),
    last: Mapping[str, Any] = MappingProxyType({}),
) -> onnx.ModelProto:
    """As tf2onnx writes it: an image, a convolution, a batch norm as Mul and Add, a pool, a unit with pre-activation.

    Another batch norm, a pool and a convolution of single places end it. ``rising``: whether the gains of the first and
    of the second batch norm are above 0 in each channel; else they are of both signs. ``last``: attributes of the last
    convolution.
    """
    random = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    def integers(name: str, *numbers: int) -> TensorProto:
        return numpy_helper.from_array(np.array(numbers, np.int64), name)

    gains = random.normal(size=(2, 1, CHANNELS, 1, 1)).astype(np.float32)
    gains = np.where(np.reshape(rising, (2, 1, 1, 1, 1)), np.abs(gains), gains)
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Sub", ["log_mel", "mean"], ["centred"]),
                helper.make_node("Mul", ["centred", "precision"], ["standardised"]),
                helper.make_node("Reshape", ["standardised", "image_shape"], ["image"]),
                helper.make_node("Conv", ["image", "kernel", "kernel_bias"], ["convolved"], pads=pads, strides=strides),
                helper.make_node("LeakyRelu", ["convolved"], ["rectified"], alpha=0.1),
                helper.make_node("Mul", ["rectified", "gain"], ["scaled"]),
                helper.make_node("Add", ["scaled", "offset"], ["normalised"]),
                helper.make_node("MaxPool", ["normalised"], ["pooled"], kernel_shape=[2, 1], strides=[2, 1]),
                helper.make_node("LeakyRelu", ["pooled"], ["activated"], alpha=0.1),
                helper.make_node("Conv", ["activated", "square", "square_bias"], ["mapped"], pads=[1, 1, 1, 1]),
                helper.make_node("Add", ["mapped", "pooled"], ["sum"]),
                helper.make_node("Mul", ["sum", "next_gain"], ["next_scaled"]),
                helper.make_node("Add", ["next_scaled", "next_offset"], ["next_normalised"]),
                helper.make_node("MaxPool", ["next_normalised"], ["ended"], kernel_shape=[2, 1], strides=[2, 1]),
                helper.make_node("Conv", ["ended", "point", "point_bias"], ["pointed"], **last),
                helper.make_node("Transpose", ["pointed"], ["channels_last"], perm=[0, 2, 3, 1]),
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
                constant("point", CHANNELS, CHANNELS // last.get("group", 1), 1, 1),
                *(constant(f"{name}_bias", CHANNELS) for name in ("kernel", "square", "point")),
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


def assert_alike(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """To a millionth of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * float(np.abs(expected).max()))


@pytest.mark.parametrize("rising", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("pads", "strides"), [((0, 0, 0, 0), (1, 1)), ((2, 0, 1, 1), (2, 1)), ((0, 1, 2, 0), (1, 2))])
def test_values_stay_where_time_is_innermost(
    pads: Sequence[int], strides: Sequence[int], rising: Sequence[bool]
) -> None:
    """Whatever the padding at the four sides and the strides: kernels, pools and the flattening are turned alike.

    And whatever the signs of a batch norm's gains: one that falls in some channel stays before its pool.
    """
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model = graph(pads, strides, rising=rising)
    expected = values(model, x)
    rearrange(model)
    assert_alike(values(model, x), expected)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_nothing_leaves_the_blocked_layout() -> None:
    """Batch norms are one operation, each LeakyRelu follows a convolution, no shape is computed, nothing is unused."""
    model = graph(rising=(True, True))
    rearrange(model)
    made = {node.output[0]: node for node in model.graph.node}
    assert {made[node.input[0]].op_type for node in model.graph.node if node.op_type == "LeakyRelu"} == {"Conv"}
    assert Counter(kinds(model))["Add"] == 1  # of the shortcut
    assert not set(kinds(model)) & {"Mul", "Sub", "Shape", "Slice", "Concat"}
    used = {name for node in model.graph.node for name in node.input}
    assert {one.name for one in model.graph.initializer} <= used
    assert used <= {one.name for one in model.graph.initializer} | made.keys() | {"log_mel"}


START, END = ["Transpose", "BatchNormalization", "Reshape", "Conv"], ["Transpose", "Reshape"]
UNIT = ["Conv", "LeakyRelu", "Conv"]
"""A LeakyRelu behind a convolution of one weight a channel, and a convolution."""


@pytest.mark.parametrize(
    ("rising", "between"),
    [
        ((False, False), ["LeakyRelu", "BatchNormalization", "MaxPool", *UNIT, "Add", "BatchNormalization", "MaxPool"]),
        ((False, True), ["LeakyRelu", "BatchNormalization", "MaxPool", *UNIT, "Add", "MaxPool"]),
        ((True, False), ["MaxPool", "Conv", "LeakyRelu", *UNIT, "BatchNormalization", "Add", "MaxPool"]),
    ],
)
def test_a_batch_norm_is_a_part_of_what_is_beside_it(rising: Sequence[bool], between: list[str]) -> None:
    """Where it rises it waits for the pool behind it, as a LeakyRelu does, and what comes then can have it.

    So can what is added, where it is a convolution or another batch norm.
    """
    model = graph(rising=rising)
    rearrange(model)
    assert kinds(model) == [*START, *between, "Conv", *END]


@pytest.mark.parametrize("last", [{"pads": [1, 1, 1, 1]}, {"group": CHANNELS}])
def test_a_convolution_that_cannot_have_it_leaves_it(last: dict[str, Any]) -> None:
    """One that pads hears zeros at the edges, not what is added to each channel; and one that hears each apart."""
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model = graph(rising=(False, True), last=last)
    expected = values(model, x)
    rearrange(model)
    assert_alike(values(model, x), expected)
    assert kinds(model)[-4:] == ["BatchNormalization", "Conv", *END]


def changed(output: str, *before: onnx.NodeProto) -> onnx.ModelProto:
    """The graph of rising batch norms, with nodes before the one of ``output``, whose input is another."""
    model = graph(rising=(True, True))
    nodes = list(model.graph.node)
    place = next(place for place, node in enumerate(nodes) if list(node.output) == [output])
    nodes[place].input[0] = before[-1].output[0]
    nodes[place:place] = before
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def normalised(x: str, output: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Mul", [x, "signed_gain"], [f"{x}_scaled"]),
        helper.make_node("Add", [f"{x}_scaled", "offset"], [output]),
    ]


CHANGED = {
    "a convolution that others hear": [helper.make_node("Add", ["next_normalised", "mapped"], ["other"])],
    "a sum that others hear": [helper.make_node("Add", ["next_normalised", "sum"], ["other"])],
    "a slope below 0": [helper.make_node("LeakyRelu", ["next_normalised"], ["other"], alpha=-0.5)],
    "a rectified sum": [
        helper.make_node("Add", ["next_normalised", "pooled"], ["total"]),
        helper.make_node("LeakyRelu", ["total"], ["rectified_total"], alpha=0.1),
        helper.make_node("Add", ["rectified_total", "pooled"], ["other"]),
    ],
    "a rectified sum of one channel and of several": [
        helper.make_node("Conv", ["next_normalised", "one_channel"], ["thin"]),
        helper.make_node("Add", ["thin", "offset"], ["total"]),
        helper.make_node("LeakyRelu", ["total"], ["rectified_total"], alpha=0.1),
        helper.make_node("Add", ["rectified_total", "pooled"], ["other"]),
    ],
    "a normalised sum of one channel and of several": [
        helper.make_node("Conv", ["next_normalised", "one_channel"], ["thin"]),
        helper.make_node("BatchNormalization", ["thin", *["one_number"] * 4], ["thin_normalised"]),
        helper.make_node("Conv", ["next_normalised", "square"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["thin_normalised", "wide"], ["total"]),
        *normalised("total", "other"),
    ],
    "a normalised sum of a normalised sum": [
        helper.make_node("Conv", ["next_normalised", "square"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["wide", "next_normalised"], ["total"]),
        *normalised("total", "other"),
    ],
    "a normalised sum, the batch norm first": [
        helper.make_node("Conv", ["next_normalised", "square"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["pooled", "wide"], ["total"]),
        *normalised("total", "other"),
    ],
}


@pytest.mark.parametrize("before", CHANGED.values(), ids=CHANGED)
def test_values_stay_where_there_is_less_to_fold(before: Sequence[onnx.NodeProto]) -> None:
    """The values stay, and ONNX Runtime takes the graph."""
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model = changed("ended", *before)
    more = {"one_channel": [[[[0.4]], [[-0.3]], [[0.8]], [[0.1]]]], "one_number": [0.7]}
    more["signed_gain"] = [[[0.5]], [[-1.5]], [[0.6]], [[1.2]]]  # the pool behind it cannot go first
    for name, numbers in more.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.float32), name))
    expected = values(model, x)
    rearrange(model)
    assert_alike(values(model, x), expected)


def test_a_sum_is_rectified_behind_a_convolution() -> None:
    """Also one of what was rectified itself."""
    model = changed("ended", *CHANGED["a rectified sum"])
    rearrange(model)
    made = {node.output[0]: node for node in model.graph.node}
    assert made[made["rectified_total"].input[0]].op_type == "Conv"


def test_batch_norms_of_their_own_mean_and_variance_keep_their_values() -> None:
    """As another exporter writes them: with statistics, and the constant of a product first."""
    x = np.random.default_rng(4).normal(size=(3, TIME, MEL)).astype(np.float32)
    model, random = graph(rising=(True, True)), np.random.default_rng(5)
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
    assert_alike(values(model, x), expected)
    made = {node.output[0]: node for node in model.graph.node}
    assert made["pooled"].op_type == "BatchNormalization"
    assert made[made["activated"].input[0]].op_type == "Conv"


def test_a_graph_without_convolutions_stays() -> None:
    """Networks on statistics have neither images nor batch norms by channel."""
    model = graph()
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    before = model.SerializeToString()
    rearrange(model)
    assert model.SerializeToString() == before
