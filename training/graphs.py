"""The exported graphs in the form that ONNX Runtime runs fastest on a CPU; the values they give stay the same.

What tf2onnx writes makes ONNX Runtime leave the blocked layout of its convolutions and come back, again and again: for
a batch norm that follows no convolution, which is a Mul and an Add; for a LeakyRelu that follows none, as each
pre-activation does; and for the Add of a shortcut whose shape it has lost sight of by then. As BatchNormalization, and
with the LeakyRelu behind a depthwise convolution, all of it stays in that layout, and the Add becomes a part of the
convolution before it. The standardisation of the bands is a batch norm too, behind the transposition.

ONNX Runtime's convolutions work along the innermost axis, eight or so places at a time: the mel axis ends with 4 of
them, time with 10, so time is made the innermost. And the flattening asks for its input's shape, where a Reshape can
say "the rest".

Each operation that is left goes through its image once more. So what rises, a batch norm of gains above 0 or a
LeakyRelu, waits for the pool that follows it, where less is left; and a batch norm is folded into the pointwise
convolution behind it, or into what the sum before it adds. One before a convolution that pads stays: the edges hear
zeros. What each of this was worth stands in DECISIONS.md.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def rearrange(model: onnx.ModelProto) -> None:
    """Bring a graph of one input and one output into that form, in place; one without convolutions stays as it is."""
    if any(node.op_type == "Conv" for node in model.graph.node):
        _flatten_by_reshape(model.graph)
        _restore_batch_norms(model.graph)
        _put_time_innermost(model.graph)
        _standardise_by_batch_norm(model.graph)
        _pool_first(model.graph)
        _fold_into_pointwise(model.graph)
        _drop_unused(model.graph)
        _fold_into_sums(model.graph)
        _rectify_behind_convolutions(model.graph)
        _drop_unused(model.graph)
        used = {name for node in model.graph.node for name in node.input}
        kept = [one for one in model.graph.initializer if one.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        onnx.checker.check_model(model)


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {one.name: numpy_helper.to_array(one) for one in graph.initializer}


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _add_constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {node.output[0]: node for node in graph.node}


def _users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    return users


def _batch_norm(
    graph: onnx.GraphProto, x: str, scale: NDArray[np.generic], shift: NDArray[np.generic], output: str
) -> onnx.NodeProto:
    """scale * x + shift, a number a channel: a BatchNormalization of mean 0 and variance 1."""
    values = {
        "scale": scale,
        "shift": shift,
        "mean": np.zeros(len(scale), np.float32),
        "variance": np.ones(len(scale), np.float32),
    }
    arguments = [_add_constant(graph, f"{output}/{what}", value) for what, value in values.items()]
    return helper.make_node("BatchNormalization", [x, *arguments], [output], epsilon=0.0)


def _restore_batch_norms(graph: onnx.GraphProto) -> None:
    """Mul and Add by a number a channel, (channels, 1, 1), become one BatchNormalization."""
    constants, users = _constants(graph), _users(graph)

    def by_channel(node: onnx.NodeProto, operation: str) -> tuple[str, NDArray[np.generic]] | None:
        if node.op_type != operation:
            return None
        for place, name in enumerate(node.input):
            value = constants.get(name)
            if value is not None and value.size > 1 and value.ndim in {3, 4} and value.shape[-2:] == (1, 1):
                return node.input[1 - place], value.reshape(-1)
        return None

    nodes, taken = [], set()
    for node in graph.node:
        following = users[node.output[0]]
        scale = by_channel(node, "Mul")
        shift = by_channel(following[0], "Add") if scale and len(following) == 1 else None
        if node.output[0] in taken:
            continue
        if scale is None or shift is None or scale[1].shape != shift[1].shape:
            nodes.append(node)
            continue
        output = following[0].output[0]
        nodes.append(_batch_norm(graph, scale[0], scale[1], shift[1], output))
        taken.add(output)
    _replace_nodes(graph, nodes)


def _put_time_innermost(graph: onnx.GraphProto) -> None:
    """Exchange the two axes of every image, from the Reshape that makes it to the Transpose that ends it."""
    constants = _constants(graph)
    weights = {one.name: one for one in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in {"kernel_shape", "strides", "dilations"}:
                attribute.ints[:] = attribute.ints[::-1]
            elif attribute.name == "pads":
                top, left, bottom, right = attribute.ints
                attribute.ints[:] = [left, top, right, bottom]
        if node.op_type == "Reshape" and len(constants.get(node.input[1], ())) == 4:
            # (clips, time, mel) -> (clips, 1, time, mel)
            count, one, time, mel = constants[node.input[1]].tolist()
            turned = f"{node.input[0]}/turned"
            nodes.append(helper.make_node("Transpose", [node.input[0]], [turned], perm=[0, 2, 1]))
            node.input[0] = turned
            node.input[1] = _add_constant(graph, f"{turned}/shape", np.array([count, one, mel, time], np.int64))
        elif node.op_type == "Transpose":  # channels last, as Keras flattens them
            node.attribute[0].ints[:] = [0, 3, 2, 1]
        nodes.append(node)
    for name in {node.input[1] for node in nodes if node.op_type == "Conv"}:
        turned_kernel = np.ascontiguousarray(constants[name].swapaxes(2, 3))
        weights[name].CopyFrom(numpy_helper.from_array(turned_kernel, name))
    _replace_nodes(graph, nodes)


def _standardise_by_batch_norm(graph: onnx.GraphProto) -> None:
    """Sub and Mul by a number a band, before bands become the second axis: one BatchNormalization behind that."""
    constants, users, nodes = _constants(graph), _users(graph), list(graph.node)
    for place, (less, times, turn) in enumerate(zip(nodes, nodes[1:], nodes[2:], strict=False)):
        if [less.op_type, times.op_type, turn.op_type] != ["Sub", "Mul", "Transpose"]:
            continue
        mean, scale = constants.get(less.input[1]), constants.get(times.input[1])
        alone = users[less.output[0]] == [times] and users[times.output[0]] == [turn]
        if mean is None or scale is None or mean.shape != scale.shape or mean.ndim != 1 or not alone:
            continue
        turned = f"{less.input[0]}/turned"
        turn_first = helper.make_node("Transpose", [less.input[0]], [turned], perm=list(turn.attribute[0].ints))
        norm = _batch_norm(graph, turned, scale, -mean * scale, turn.output[0])
        _replace_nodes(graph, [*nodes[:place], turn_first, norm, *nodes[place + 3 :]])
        return


def _gain_and_shift(
    constants: Mapping[str, NDArray[Any]], node: onnx.NodeProto | None
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """What a BatchNormalization multiplies each channel by and adds to it; None of anything else."""
    if node is None or node.op_type != "BatchNormalization" or not constants.keys() >= set(node.input[1:]):
        return None
    scale, shift, mean, variance = (constants[name] for name in node.input[1:])
    epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), 1e-5)
    gain = scale / np.sqrt(variance + np.float32(epsilon))
    return gain, shift - mean * gain


def _pool_first(graph: onnx.GraphProto) -> None:
    """The maximum of what rises is what the maximum rises to: rectified, or normalised where no channel falls."""
    constants, made = _constants(graph), _makers(graph)

    def rises(node: onnx.NodeProto | None) -> bool:
        known = _gain_and_shift(constants, node)
        if known is not None:
            return bool((known[0] > 0.0).all())
        return node is not None and node.op_type == "LeakyRelu" and all(one.f > 0.0 for one in node.attribute)

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        rising: list[onnx.NodeProto] = []
        while node.op_type == "MaxPool" and rises(made.get(node.input[0])):
            rising.insert(0, made[node.input[0]])
            node.input[0] = rising[0].input[0]
        output = node.output[0]
        names = [*(f"{output}/pooled/{place}" for place in range(len(rising))), output]
        node.output[0] = names[0]
        for one, x, y in zip(rising, names, names[1:], strict=False):
            behind = onnx.NodeProto()
            behind.CopyFrom(one)
            behind.input[0], behind.output[0] = x, y
            nodes.append(behind)
    _replace_nodes(graph, nodes)


def _fold_into_pointwise(graph: onnx.GraphProto) -> None:
    """A batch norm before a pointwise convolution that pads nothing becomes a part of its weights."""
    constants, made = _constants(graph), _makers(graph)
    for node in graph.node:
        norm = made.get(node.input[0]) if node.op_type == "Conv" else None
        known, parts = _gain_and_shift(constants, norm), _weights_and_bias(constants, node)
        padded = any(any(one.ints) for one in node.attribute if one.name == "pads")
        if norm is None or known is None or parts is None or padded:
            continue
        (gain, shift), (weights, bias) = known, parts
        if weights.shape[1:] == (len(gain), 1, 1):
            node.input[0] = norm.input[0]
            _set_weights(graph, node, norm, weights * gain[:, None, None], bias + weights[:, :, 0, 0] @ shift)


def _fold_into_sums(graph: onnx.GraphProto) -> None:
    """A batch norm of a sum becomes a part of what is added: of convolutions that nobody else hears, or batch norms."""
    constants, made, users = _constants(graph), _makers(graph), _users(graph)

    def takes(term: onnx.NodeProto | None, total: onnx.NodeProto, channels: int) -> bool:
        own = _gain_and_shift(constants, term)
        if term is None or own is not None:
            return own is not None and len(own[0]) == channels
        return _weights_and_bias(constants, term) is not None and users[term.output[0]] == [total]

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        known, total = _gain_and_shift(constants, node), made.get(node.input[0])
        if (
            known is None
            or total is None
            or total.op_type != "Add"
            or users[total.output[0]] != [node]
            or not all(takes(made.get(name), total, len(known[0])) for name in total.input)
        ):
            nodes.append(node)
            continue
        gain, shift = known
        before_total = [one.output[0] for one in nodes].index(total.output[0])
        for place, name in enumerate(total.input):
            term = made[name]
            own, parts = _gain_and_shift(constants, term), _weights_and_bias(constants, term)
            if own is not None:
                total.input[place] = f"{node.output[0]}/{place}"
                norm = _batch_norm(graph, term.input[0], own[0] * gain, own[1] * gain + shift, total.input[place])
                nodes.insert(before_total, norm)
            elif parts is not None:
                weights, bias = parts
                _set_weights(graph, term, node, weights * gain[:, None, None, None], bias * gain + shift)
            shift = np.zeros_like(shift)  # one term has it
        total.output[0] = node.output[0]
        made[node.output[0]] = total
    _replace_nodes(graph, nodes)


def _weights_and_bias(
    constants: Mapping[str, NDArray[Any]], node: onnx.NodeProto
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Of a convolution with constant ones; None of anything else."""
    if node.op_type != "Conv" or not constants.keys() >= set(node.input[1:]):
        return None
    weights = constants[node.input[1]]
    return weights, constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weights), weights.dtype)


def _set_weights(
    graph: onnx.GraphProto,
    convolution: onnx.NodeProto,
    norm: onnx.NodeProto,
    weights: NDArray[Any],
    bias: NDArray[Any],
) -> None:
    """Give a convolution its weights with a batch norm in them."""
    named = f"{convolution.output[0]}/with/{norm.output[0]}"
    del convolution.input[1:]
    convolution.input.extend(
        [_add_constant(graph, f"{named}/weights", weights), _add_constant(graph, f"{named}/bias", bias)]
    )


def _rectify_behind_convolutions(graph: onnx.GraphProto) -> None:
    """A LeakyRelu of a batch norm, a sum or a pool follows a depthwise convolution of single weights instead.

    That of a batch norm does the same as it does; the others change nothing.
    """
    constants, made = _constants(graph), _makers(graph)
    nodes: list[onnx.NodeProto] = []
    behind: list[tuple[onnx.NodeProto, str]] = []
    for node in graph.node:
        before = made.get(node.input[0]) if node.op_type == "LeakyRelu" else None
        channels = _channels(constants, made, before)
        if before is not None and before.op_type in {"BatchNormalization", "Add", "MaxPool"} and channels:
            known = _gain_and_shift(constants, before)
            x = node.input[0] if known is None else before.input[0]
            gain, shift = known or (np.ones(channels, np.float32), np.zeros(channels, np.float32))
            affine = f"{node.output[0]}/affine"
            weights = _add_constant(graph, f"{affine}/weights", gain.reshape(-1, 1, 1, 1))
            bias = _add_constant(graph, f"{affine}/bias", shift)
            nodes.append(helper.make_node("Conv", [x, weights, bias], [affine], kernel_shape=[1, 1], group=channels))
            behind.append((node, affine))
        nodes.append(node)
    for node, affine in behind:
        node.input[0] = affine
    _replace_nodes(graph, nodes)


def _channels(
    constants: Mapping[str, NDArray[Any]], made: Mapping[str, onnx.NodeProto], node: onnx.NodeProto | None
) -> int:
    """How many channels the image has that a node gives; 0 where that is not known, as of a sum that broadcasts."""
    if node is not None and node.op_type in {"Add", "MaxPool", "LeakyRelu"}:
        counts = {_channels(constants, made, made.get(name)) for name in node.input}
        return counts.pop() if len(counts) == 1 else 0
    if node is None or node.op_type not in {"Conv", "BatchNormalization"} or node.input[1] not in constants:
        return 0
    return len(constants[node.input[1]])


def _flatten_by_reshape(graph: onnx.GraphProto) -> None:
    """The Reshape whose shape is computed takes [0, -1] instead, and what computed it goes."""
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] not in constants:
            node.input[1] = _add_constant(graph, f"{node.output[0]}/shape", np.array([0, -1], np.int64))
    _drop_unused(graph)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out what no output depends on."""
    needed, nodes = {one.name for one in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    _replace_nodes(graph, nodes[::-1])
