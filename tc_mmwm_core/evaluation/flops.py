"""Floating-point operations of an ONNX graph: those of its matrix products and convolutions, 2 for a multiply-add."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import shape_inference


def count_flops(path: str | Path, batch: Mapping[str, int] | None = None) -> int:
    """Operations of one run of the graph at ``path``.

    Args:
        path: the ONNX file.
        batch: {input: size of its first axis} where that is dynamic.

    Raises:
        ValueError: names the operator whose shapes cannot be inferred.
    """
    model = onnx.load(str(path))
    for node in model.graph.input:
        if node.name in (batch or {}):
            node.type.tensor_type.shape.dim[0].dim_value = batch[node.name]
    for node in [*model.graph.output, *model.graph.value_info]:
        node.type.tensor_type.ClearField("shape")  # as exported they name the axis; inference fills in its size
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return sum(_flops(node, shapes, path) for node in graph.node)


def _flops(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], path: str | Path) -> int:
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return 0
    weight, output = shapes.get(node.input[1], ()), shapes.get(node.output[0], ())
    if not weight or not output or 0 in weight or 0 in output:
        raise ValueError(f"{path}: shapes of {node.op_type} '{node.name}' cannot be inferred: {weight} to {output}")
    if node.op_type == "Conv":
        terms = math.prod(weight[1:])  # [out, in / groups, *kernel]
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        terms = weight[1] if transposed else weight[0]
    else:
        terms = weight[-2] if len(weight) > 1 else weight[0]
    return 2 * math.prod(output) * terms
