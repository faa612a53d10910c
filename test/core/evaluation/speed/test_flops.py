import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tc_mmwm_core.evaluation.speed.flops import count_flops


def write(path, nodes, inputs, output, weights):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(("count", "expected"), [(1, 2 * 5 * 7 * 3), (10, 10 * 2 * 5 * 7 * 3)])
def test_matmul_with_a_dynamic_axis(tmp_path, count, expected):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes, {"x": ("N", 5, 7)}, "y", {"w": (7, 3)})
    assert count_flops(path, {"x": count}) == expected


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(tmp_path, transposed):
    weight = (3, 7) if transposed else (7, 3)
    path = write(
        tmp_path / "a.onnx",
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)],
        {"x": (5, 7)},
        "y",
        {"w": weight},
    )
    assert count_flops(path) == 2 * 5 * 7 * 3


def test_strided_grouped_convolution(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=2)
    path = write(tmp_path / "a.onnx", [node], {"x": (1, 4, 8, 8)}, "y", {"w": (6, 2, 3, 3)})
    assert count_flops(path) == 2 * (6 * 4 * 4) * (2 * 3 * 3)


def test_unknown_size_is_named(tmp_path):
    path = write(
        tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("N", 7)}, "y", {"w": (7, 3)}
    )
    with pytest.raises(ValueError, match=r"a\.onnx: shapes of MatMul"):
        count_flops(path)
