"""The stem on blocks of 2 x 2 pixels: the same sums, in a shape that int8 kernels can multiply.

The first convolution reads 3 colours at the full resolution. A kernel that gathers a few bytes for each of its taps
spends its time on gathering: in ONNX Runtime it takes longer in int8 than in float. With four neighbouring pixels side
by side in the channels (SpaceToDepth) it has 12 channels to read and four times as many to give, at a quarter of the
places; the stride of the convolution behind it turns into a 2 x 2 kernel over the blocks. Weights that reach beyond
the original kernel are zero, so the sums are the same ones.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .graph_view import GraphView

SUFFIX = "/blocks"
"""Ends the names of tensors that hold blocks of pixels; what comes before it is the name of the tensor in pixels."""


def stem_on_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a vision graph whose first two convolutions run on blocks of 2 x 2 pixels.

    A graph that does not begin with a 3 x 3 convolution, a SiLU and one 3 x 3 convolution of stride 2 is returned as it
    is. Height and width must be even.
    """
    view = GraphView(model)
    first = next((conv for conv in view.convolutions() if conv.input[0] not in view.producers), None)
    pair = view.activation_of(first) if first is not None else None
    if first is None or pair is None or not _is_plain(first, view, stride=1):
        return model
    readers = view.consumers[pair[1].output[0]]
    if len(readers) != 1 or readers[0].op_type != "Conv" or not _is_plain(readers[0], view, stride=2):
        return model
    second = readers[0].name
    on_blocks = onnx.ModelProto()
    on_blocks.CopyFrom(model)
    graph = on_blocks.graph
    weights = {weight.name: weight for weight in graph.initializer}

    def replace(name: str, values: NDArray[np.float32]) -> None:
        weights[name].CopyFrom(numpy_helper.from_array(values, name))

    image = first.input[0]
    replace(first.input[1], _dense_kernel(view.weight(first.input[1])))
    if len(first.input) > 2 and first.input[2]:
        replace(first.input[2], np.tile(view.weight(first.input[2]), 4))
    replace(readers[0].input[1], _strided_kernel(view.weight(readers[0].input[1])))
    in_blocks = {image, first.output[0], pair[0].output[0], pair[1].output[0]}
    for node in graph.node:
        node.input[:] = [f"{name}{SUFFIX}" if name in in_blocks else name for name in node.input]
        node.output[:] = [f"{name}{SUFFIX}" if name in in_blocks else name for name in node.output]
        if node.name == second:
            del node.attribute[:]
            node.attribute.extend(
                [
                    helper.make_attribute("kernel_shape", [2, 2]),
                    helper.make_attribute("pads", [1, 1, 0, 0]),
                    helper.make_attribute("strides", [1, 1]),
                ]
            )
    blocks = helper.make_node("SpaceToDepth", [image], [f"{image}{SUFFIX}"], f"{image}/SpaceToDepth", blocksize=2)
    graph.node.insert(0, blocks)
    del graph.value_info[:]
    return on_blocks


def _is_plain(conv: onnx.NodeProto, view: GraphView, stride: int) -> bool:
    attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    return (
        conv.input[1] in view.weights
        and tuple(view.weights[conv.input[1]].dims[2:]) == (3, 3)
        and list(attributes.get("strides", [1, 1])) == [stride, stride]
        and list(attributes.get("pads", [])) == [1, 1, 1, 1]
        and list(attributes.get("dilations", [1, 1])) == [1, 1]
        and attributes.get("group", 1) == 1
    )


def _dense_kernel(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O, I, 3, 3) over pixels -> (4 O, 4 I, 3, 3) over blocks, whose channels are (row, column, channel)."""
    outputs, inputs = weight.shape[:2]
    blocks = np.zeros((2, 2, outputs, 2, 2, inputs, 3, 3), weight.dtype)
    for row, column, dy, dx in np.ndindex(2, 2, 3, 3):
        y, x = row + dy - 1, column + dx - 1  # the pixel that this tap reads, from the corner of the output's block
        blocks[row, column, :, y % 2, x % 2, :, y // 2 + 1, x // 2 + 1] = weight[:, :, dy, dx]
    return blocks.reshape(4 * outputs, 4 * inputs, 3, 3)


def _strided_kernel(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O, I, 3, 3) of stride 2 over pixels -> (O, 4 I, 2, 2) of stride 1 over blocks, padded above and on the left."""
    outputs, inputs = weight.shape[:2]
    blocks = np.zeros((outputs, 2, 2, inputs, 2, 2), weight.dtype)
    for dy, dx in np.ndindex(3, 3):
        y, x = dy - 1, dx - 1
        blocks[:, y % 2, x % 2, :, y // 2 + 1, x // 2 + 1] = weight[:, :, dy, dx]
    return blocks.reshape(outputs, 4 * inputs, 2, 2)
