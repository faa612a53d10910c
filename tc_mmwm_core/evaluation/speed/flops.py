"""Floating-point operations of an ONNX graph: those of its matrix products and convolutions, 2 for a multiply-add."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

COUNTED = ("MatMul", "Gemm", "Conv")


def count_flops(path: str | Path, batch: Mapping[str, int] | None = None) -> int:
    """Operations of one run of the graph at ``path``.

    Args:
        path: the ONNX file.
        batch: {input: size of its first axis} where that is dynamic.

    Raises:
        ValueError: names the operator whose shapes cannot be told.
    """
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type in COUNTED]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inner = {name for node in nodes for name in (node.input[1], node.output[0])} - shapes.keys()
    shapes |= _shapes_of_a_run(model, inner, batch)
    return sum(_flops(node, shapes, path) for node in nodes)


def _shapes_of_a_run(
    model: onnx.ModelProto, wanted: set[str], batch: Mapping[str, int] | None
) -> dict[str, tuple[int, ...]]:
    """Shapes of inner tensors, from a run on zeros: static inference gives up where a graph computes its shapes."""
    feed = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or (batch or {}).get(value.name, 0) for dim in tensor.shape.dim]
        feed[value.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {name: array.shape for name, array in zip(sorted(wanted), session.run(None, feed), strict=True)}


def _flops(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], path: str | Path) -> int:
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
