"""A model bundle small enough to be written in a test, whose verdicts can be worked out by hand.

Real ONNX graphs and a real tokenizer, for the navigation robot. Latent state: [bumper, forward speed, mean brightness,
brightest before]; the memory is the brightest so far. Context: z_l and the bumper. Words switch rules on: after "slow",
normalised forward speed is the violation; after "right", the normalised turn; "never" and a pressed bumper forbid
everything. Progress is the sum of normalised forward speed, less a tenth of each squared turn. The goal is in view
where it is bright: progress in the best place is the mean brightness less 127.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.runtime.bundle import Bundle, BundleManifest, Training, write_bundle

ROBOT = Path(__file__).parents[1] / "config" / "robots" / "navigation.yaml"
HORIZON, FRAME_SKIP, TOKENS, LATENT, CONTEXT, ACTIONS = 3, 2, 8, 4, 5, 2
THRESHOLD = 0.25
WORDS = ["[PAD]", "[UNK]", "drive", "slow", "right", "never"]


def write_tiny_bundle(directory: Path, **manifest: object) -> Bundle:
    """Write the bundle to ``directory``; keyword arguments replace fields of its manifest."""
    return write_bundle(directory, tiny_manifest(**manifest), tiny_files())


def tiny_manifest(**fields: object) -> BundleManifest:
    defaults = {
        "name": "tiny",
        "created": "2026-01-01T00:00:00+00:00",
        "interface": RobotInterface.load(ROBOT).to_dict(),
        "latent": LATENT,
        "context": CONTEXT,
        "horizon": HORIZON,
        "frame_skip": FRAME_SKIP,
        "max_tokens": TOKENS,
        "threshold": THRESHOLD,
        "training": Training(config="by hand", seed=0, revision="none"),
    }
    return BundleManifest(**(defaults | fields))


def tiny_files() -> dict[str, Path | bytes]:
    """Everything but bundle.json, by name."""
    return {
        "robot.yaml": ROBOT,
        "tokenizer.json": _tokenizer(),
        "language.onnx": _language().SerializeToString(),
        "encode.onnx": _encode().SerializeToString(),
        "screen.onnx": _screen().SerializeToString(),
    }


def position_commanded(robot: dict[str, Any]) -> dict[str, Any]:
    """``robot``, the content of navigation.yaml, with a heading for turn and a sensor that tells it."""
    robot["sensors"][0]["fields"].append({"name": "heading", "path": "twist.twist.angular.z", "unit": "rad"})
    robot["sensors"][0]["fields"].pop(-2)
    robot["action"]["fields"][1] |= {"unit": "rad", "hold": "odometry.heading"}
    robot["action"]["fields"][1].pop("safe")
    return robot


def _tokenizer() -> bytes:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)  # as sentence encoders' tokenizers come: the runtime must not let it cut
    return json.dumps(json.loads(tokenizer.to_str())).encode()


def _model(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _float(name: str, *shape: int | str):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _language() -> onnx.ModelProto:
    table = np.zeros((len(WORDS), 4), np.float32)
    table[3:6, :3] = np.eye(3)
    return _model(
        [
            helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
            helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
            helper.make_node("Mul", ["embedded", "column"], ["words"]),
            helper.make_node("ReduceMax", ["words"], ["z_l"], axes=[1], keepdims=0),
        ],
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, (1, TOKENS)),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, (1, TOKENS)),
        ],
        [_float("words", 1, TOKENS, 4), _float("z_l", 1, LATENT)],
        {"table": table, "last": np.array([2], np.int64)},
    )


def _encode() -> onnx.ModelProto:
    robot = RobotInterface.load(ROBOT)
    pick = np.zeros((robot.sensor_size, 2), np.float32)
    pick[robot.sensor_names.index("bumper.pressed"), 0] = 1
    pick[robot.sensor_names.index("odometry.forward_speed"), 1] = 1
    return _model(
        [
            helper.make_node("MatMul", ["sensor", "pick"], ["sensed"]),
            helper.make_node("Cast", ["image.overhead"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "last"], ["brightness"]),
            helper.make_node("Unsqueeze", ["brightness", "last"], ["brightest"]),
            helper.make_node("ReduceMax", ["remembered"], ["before"], axes=[1], keepdims=0),
            helper.make_node("Concat", ["sensed", "brightness", "before"], ["latent"], axis=1),
            helper.make_node("Slice", ["latent", "start", "end", "last"], ["bumper"]),
            helper.make_node("Concat", ["z_l", "bumper"], ["context"], axis=1),
            helper.make_node("Identity", ["thirds"], ["weights"]),
            helper.make_node("Identity", ["still"], ["proposal"]),
            helper.make_node("Max", ["remembered", "brightest"], ["memory"]),
            helper.make_node("Sub", ["mean", "grey"], ["goal"]),
        ],
        [
            helper.make_tensor_value_info("image.overhead", TensorProto.UINT8, (1, 64, 64, 3)),
            _float("sensor", 1, robot.sensor_size),
            _float("words", 1, TOKENS, 4),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, (1, TOKENS)),
            _float("z_l", 1, LATENT),
            _float("remembered", 1, 1, 1),
        ],
        [
            _float("latent", 1, LATENT),
            _float("context", 1, CONTEXT),
            _float("weights", 1, 3),
            _float("proposal", 1, HORIZON, ACTIONS),
            _float("memory", 1, 1, 1),
            _float("goal", 1),
        ],
        {
            "pick": pick,
            "start": np.array([0], np.int64),
            "end": np.array([1], np.int64),
            "last": np.array([1], np.int64),
            "grey": np.array([127], np.float32),
            "thirds": np.full((1, 3), 1 / 3, np.float32),
            "still": np.zeros((1, HORIZON, ACTIONS), np.float32),
        },
    )


def _screen() -> onnx.ModelProto:
    # violation = slow * forward + right * turn + 10 * (never + bumper)
    rules = np.zeros((CONTEXT, ACTIONS), np.float32)
    rules[:2, :2] = np.eye(2)
    forbid = np.zeros((CONTEXT, 1), np.float32)
    forbid[[2, 4], 0] = 10
    return _model(
        [
            helper.make_node("MatMul", ["context", "rules"], ["weights"]),
            helper.make_node("Reshape", ["weights", "column"], ["weight_column"]),
            helper.make_node("MatMul", ["actions", "weight_column"], ["broken"]),
            helper.make_node("Squeeze", ["broken", "two"], ["by_motion"]),
            helper.make_node("MatMul", ["context", "forbid"], ["always"]),
            helper.make_node("Add", ["by_motion", "always"], ["violation"]),
            helper.make_node("MatMul", ["actions", "ahead"], ["forward_column"]),
            helper.make_node("Mul", ["actions", "actions"], ["squared"]),
            helper.make_node("MatMul", ["squared", "aside"], ["cost_column"]),
            helper.make_node("Sub", ["forward_column", "cost_column"], ["gain_column"]),
            helper.make_node("Squeeze", ["gain_column", "two"], ["gain"]),
            helper.make_node("CumSum", ["gain", "one"], ["progress"]),
        ],
        [_float("latent", 1, LATENT), _float("context", 1, CONTEXT), _float("actions", "N", HORIZON, ACTIONS)],
        [_float("violation", "N", HORIZON), _float("progress", "N", HORIZON)],
        {
            "rules": rules,
            "forbid": forbid,
            "column": np.array([ACTIONS, 1], np.int64),
            "two": np.array([2], np.int64),
            "one": np.array(1, np.int64),
            "ahead": np.array([[1], [0]], np.float32),
            "aside": np.array([[0], [0.1]], np.float32),
        },
    )
