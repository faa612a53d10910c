import os
import random
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tc_mmwm_core.training.checkpoint import (
    CheckpointError,
    Position,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from tc_mmwm_core.training.optimizer import OptimizerConfig, build_optimizer, clip_and_step
from tc_mmwm_core.training.schedulers import build_scheduler
from tc_mmwm_core.utils.reproducibility import seed_everything


class Sampler:
    """A stand-in for whatever draws windows: a NumPy generator, whose state holds 128-bit integers."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def state_dict(self):
        return self.rng.bit_generator.state

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state


def run(width=8):
    seed_everything(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.5), nn.Linear(width, 2))
    optimizer = build_optimizer(model.parameters(), OptimizerConfig(learning_rate=0.01))
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": build_scheduler(optimizer, 40, 5),
        "ema": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
        "sampler": Sampler(),
    }


def train(parts, steps):
    for _ in range(steps):
        x = torch.tensor(parts["sampler"].rng.normal(size=(3, 4)) + np.random.normal() + random.random())
        parts["model"](x.float()).square().sum().backward()
        clip_and_step(parts["optimizer"], 1.0)
        parts["scheduler"].step()
        parts["ema"].update_parameters(parts["model"])


def weights(parts):
    return [*parts["model"].state_dict().values(), *parts["ema"].state_dict().values()]


@pytest.mark.parametrize("broken_at", [0, 3, 11])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path, broken_at):
    whole = run()
    train(whole, 20)

    first = run()
    train(first, broken_at)
    position = Position(step=broken_at, stage=1, stage_step=2)
    save_checkpoint(tmp_path, first, position, {"seed": 0})
    seed_everything(99)
    resumed = run()
    assert load_checkpoint(tmp_path / "last.pt", resumed) == position
    train(resumed, 20 - broken_at)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_last_is_the_newest_and_best_stays(tmp_path):
    parts = run()
    save_checkpoint(tmp_path, parts, Position(step=1), {}, best=True)
    save_checkpoint(tmp_path, parts, Position(step=2), {"seed": 3})
    assert read_checkpoint(tmp_path / "best.pt")["position"]["step"] == 1
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["position"]["step"] == 2
    assert content["config"] == {"seed": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_a_part_alone_can_be_loaded_without_touching_the_random_state(tmp_path):
    parts = run()
    train(parts, 3)
    save_checkpoint(tmp_path, parts, Position(), {})
    model = run()["model"]
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "last.pt", {"model": model}, restore_random=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model[0].weight, parts["model"][0].weight)


def test_another_models_shapes_are_refused_with_both_shown_and_nothing_loaded(tmp_path):
    save_checkpoint(tmp_path, run(width=8), Position(), {})
    other = run(width=16)
    before = [value.clone() for value in weights(other)]
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "last.pt", other)
    assert f"{tmp_path}/last.pt: 'model' is of another model" in str(error.value)
    assert "0.weight: [8, 4] in the checkpoint, [16, 4] in the model" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(weights(other), before, strict=True))

    deeper = {"model": nn.Sequential(*run(width=8)["model"], nn.Linear(2, 2))}
    with pytest.raises(CheckpointError, match=r"3.weight: nothing in the checkpoint, \[2, 2\] in the model"):
        load_checkpoint(tmp_path / "last.pt", deeper)
    with pytest.raises(CheckpointError, match="holds no policy; it holds model, optimizer"):
        load_checkpoint(tmp_path / "last.pt", {"policy": deeper["model"]})


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pt: no such file"):
        read_checkpoint(tmp_path / "none.pt")
    save_checkpoint(tmp_path, run(), Position(), {})
    whole = (tmp_path / "last.pt").read_bytes()
    for name, content in {"empty.pt": b"", "text.pt": b"hello", "cut.pt": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}: not a checkpoint, or damaged"):
            read_checkpoint(tmp_path / name)
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt: checkpoint format none, format 2 is needed"):
        read_checkpoint(tmp_path / "other.pt")


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": 1, "parts": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint, or damaged"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    """A limit on the size of a file stands for the full disk: write() fails in the middle of the file likewise."""
    save_checkpoint(tmp_path, run(), Position(step=1), {}, best=True)
    before = (tmp_path / "last.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for best, name in ((False, "last"), (True, "best")):
            with pytest.raises(CheckpointError, match=rf"{name}.pt: cannot be written .*before it is untouched"):
                save_checkpoint(tmp_path, run(), Position(step=2), {}, best=best)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_a_folder_that_cannot_be_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/last.pt: cannot be written"):
        save_checkpoint(tmp_path / "file", run(), Position(), {})


SAVE_FOR_EVER = """
import sys, torch
from tc_mmwm_core.training.checkpoint import Position, save_checkpoint
model = torch.nn.Linear(512, 512)
for step in range(1_000_000):
    torch.nn.init.constant_(model.weight, step)
    save_checkpoint(sys.argv[1], {"model": model}, Position(step=step), {})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        for _ in range(200):  # a reader beside the writer sees whole files only
            content = read_checkpoint(tmp_path / "last.pt")
            assert (content["parts"]["model"]["weight"] == content["position"]["step"]).all()
        time.sleep(random.uniform(0.0, 0.05))
    finally:
        process.kill()
        written = [int(line) for line in process.communicate()[0].split()]
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["position"]["step"] >= written[-1]
    assert (content["parts"]["model"]["weight"] == content["position"]["step"]).all()


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from tc_mmwm_core.training.checkpoint import Position, load_checkpoint, read_checkpoint, save_checkpoint
from tc_mmwm_core.utils.reproducibility import seed_everything
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
seed_everything(rank)
parts = {"model": torch.nn.Linear(2, 2)}
save_checkpoint(folder, parts, Position(step=1), {})
expected = torch.randn(3)
dist.barrier()
load_checkpoint(f"{folder}/last.pt", parts)
assert torch.equal(torch.randn(3), expected), "the draws do not go on"
states = read_checkpoint(f"{folder}/last.pt")["random"]
assert len(states) == 2 and not torch.equal(states[0]["torch"], states[1]["torch"])
dist.destroy_process_group()
"""


def test_each_of_two_processes_gets_its_own_random_state_back(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
