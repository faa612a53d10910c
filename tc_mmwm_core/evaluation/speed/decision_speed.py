"""How long a decision takes and where the time goes, next to a floor measured in the same run.

Milliseconds alone say as much about the machine, and about what else runs on it, as about the code. The floor is the
time that the model's floating-point operations take as one chain of float32 matrix products, on the same provider and
threads, measured in turns with the decisions.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tc_mmwm_core.evaluation.speed.flops import count_flops
from tc_mmwm_core.interface.stream import Step
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.planner import Planner, PlannerConfig
from tc_mmwm_core.runtime.screener import Screener

PHASES = ("encode", "propose", "screen", "select")
FLOOR_SIZE, FLOOR_LENGTH = 256, 8  # a chain of 8 products of 256 x 256: the sizes of the model's own layers
FLOOR_FLOPS = FLOOR_LENGTH * 2 * FLOOR_SIZE**3


def measure(
    bundle: Bundle,
    candidates: int = 256,
    provider: str = "cpu",
    threads: int = 1,
    refinement: dict[str, Any] | None = None,
    decisions: int = 200,
) -> dict[str, Any]:
    """Time ``decisions`` decisions on random observations.

    Returns:
        JSON-able: bundle, provider, threads, candidates, horizon, refinement; ``p50``, ``p99`` and ``mean`` of the
        whole decision, ``phases`` (median of each), ``floor`` and ``floor_screen``, all in ms; ``gflops`` of the floor;
        ``flops`` of the model per decision; ``ratio`` of p50 to the floor; ``memory``, MB, the most that this process
        has held so far, Python and libraries included.
    """
    refinement = refinement or {"method": "none"}
    config = PlannerConfig.model_validate(
        # Everything is accepted, so that there always is a plan to shift.
        {"threshold": 1e9, "require_goal": False, "proposals": {"candidates": candidates, "refinement": refinement}}
    )
    screener = Screener(bundle, provider, threads)
    planner = Planner(screener, bundle.interface, config)
    planner.warm_up()
    blank, instruction = screener.blank()
    rng = np.random.default_rng(0)
    floor = _Floor(screener.provider, threads)
    floor.run()
    totals, phases, floors = [], [], []
    for index in range(decisions):
        step = Step(
            index * round(1e9 / bundle.interface.rate),
            {name: rng.integers(0, 256, image.shape, np.uint8) for name, image in blank.images.items()},
            rng.uniform(0, 1, blank.sensor.shape).astype(np.float32),
            {},
        )
        start = time.perf_counter()
        decision = planner.decide(step, instruction)
        totals.append((time.perf_counter() - start) * 1e3)
        phases.append([decision.timings[phase] for phase in PHASES])
        floors.append(floor.run())
    rounds = 1 if refinement["method"] == "none" else 1 + config.proposals.refinement.iterations
    flops_screen = rounds * count_flops(bundle.path / "screen.onnx", {"actions": candidates})
    flops = flops_screen + count_flops(bundle.path / "encode.onnx")
    per_ms = FLOOR_FLOPS / float(np.median(floors))
    p50, p99 = np.percentile(totals, [50, 99])
    return {
        "bundle": bundle.identity,
        "provider": screener.provider,
        "threads": threads,
        "candidates": candidates,
        "horizon": bundle.manifest.horizon,
        "refinement": {"method": refinement["method"], "rounds": rounds - 1},
        "decisions": decisions,
        "p50": float(p50),
        "p99": float(p99),
        "mean": float(np.mean(totals)),
        "phases": dict(zip(PHASES, np.median(phases, 0).tolist(), strict=True)),
        "flops": flops,
        "gflops": per_ms * 1e-6,
        "floor": flops / per_ms,
        "floor_screen": flops_screen / per_ms,
        "ratio": float(p50) * per_ms / flops,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux counts in KiB
    }


class _Floor:
    """A chain of float32 matrix products, as fast as the provider does them."""

    def __init__(self, provider: str, threads: int) -> None:
        shape = (FLOOR_SIZE, FLOOR_SIZE)
        weights = np.random.default_rng(0).normal(0, FLOOR_SIZE**-0.5, shape).astype(np.float32)
        nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(FLOOR_LENGTH)]
        graph = helper.make_graph(
            nodes,
            "floor",
            [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(f"x{FLOOR_LENGTH}", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(weights, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = [provider, "CPUExecutionProvider"] if provider != "CPUExecutionProvider" else [provider]
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        self._input = {"x0": weights}

    def run(self) -> float:
        """Milliseconds that the chain took this time."""
        start = time.perf_counter()
        self._session.run(None, self._input)
        return (time.perf_counter() - start) * 1e3
