"""A policy learned from pixels, which listens to the goal in an instruction and to no rule: see own_policy.md.

Behaviour cloning with action chunks; the camera is read by a spatial softmax (Levine et al., End-to-end training of
deep visuomotor policies, 2016) whose features the colour of the goal modulates (FiLM, Perez et al., 2018).

    tc-mmwm collect --driver heedless --episodes 3000 --steps 80 --seed 220000 --output data/heedless
    python docs/pixel_policy.py data/heedless --output pixel_policy.pt
    PYTHONPATH=docs:$PYTHONPATH tc-mmwm evaluate --screen pixel_policy:make
"""

import argparse
import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tc_mmwm_core.data.dataset import Dataset

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")
CHUNK, LATENT_STEP = 10, 2  # control steps that it plans ahead, and of a latent step: 5 of these are imagined
WIDTH, POINTS, HIDDEN = 32, 16, 256


def goal(instruction: str) -> int:
    """Which pad it is to go to: "stay off the red zone, find the green pad" is green."""
    return COLOURS.index(re.search(r"(\w+) (?:pad|disc|circle)\b", instruction)[1])


class PixelPolicy(nn.Module):
    """Images uint8 [B, 64, 64, 3], sensors [B, Ds] and goals int64 [B] to chunks [B, CHUNK, A]."""

    def __init__(self, sensors: int, actions: int) -> None:
        super().__init__()
        self.register_buffer("sensor_scale", torch.stack([torch.zeros(sensors), torch.ones(sensors)]))
        self.register_buffer("action_scale", torch.stack([torch.zeros(actions), torch.ones(actions)]))
        self.register_buffer("action_limits", torch.stack([-torch.ones(actions), torch.ones(actions)]))
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 5, 2, 2), nn.GroupNorm(4, WIDTH), nn.SiLU())
        self.film = nn.Embedding(len(COLOURS), 2 * WIDTH)
        self.body = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.GroupNorm(4, WIDTH), nn.SiLU())
        self.points = nn.Conv2d(WIDTH, POINTS, 3, 1, 1)
        centres = (torch.arange(32) + 0.5) / 16 - 1
        self.register_buffer("places", torch.stack(torch.meshgrid(centres, centres, indexing="xy")).flatten(1).T)
        layers: list[nn.Module] = []
        for before in (2 * POINTS + sensors, HIDDEN):
            layers += [nn.Linear(before, HIDDEN), nn.LayerNorm(HIDDEN), nn.SiLU()]
        self.head = nn.Sequential(*layers, nn.Linear(HIDDEN, CHUNK * actions), nn.Unflatten(1, (CHUNK, actions)))

    def forward(self, images: torch.Tensor, sensors: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Actions in units."""
        scale, shift = self.film(goals)[:, :, None, None].chunk(2, 1)
        seen = self.stem(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
        heat = self.points(self.body(seen * (1 + scale) + shift)).flatten(2).softmax(-1)
        mean, std = self.sensor_scale
        normal = ((sensors - mean) / std).clamp(-5, 5)
        mean, std = self.action_scale
        return self.head(torch.cat([(heat @ self.places).flatten(1), normal], 1)) * std + mean

    def reset(self) -> None:
        """An episode begins; there is nothing that it remembers."""

    @torch.no_grad()
    def propose(self, observation: dict[str, np.ndarray], instruction: str) -> np.ndarray:
        """One candidate [1, 5, 2]."""
        image, sensor = (torch.tensor(observation[name])[None] for name in ("image.overhead", "sensor"))
        chunk = self(image, sensor, torch.tensor([goal(instruction)])).clamp(*self.action_limits)  # else rejected
        return chunk.numpy()[:, ::LATENT_STEP]


def make() -> PixelPolicy:
    """The policy of ``pixel_policy.pt``, or of the file that PIXEL_POLICY names."""
    weights = torch.load(os.environ.get("PIXEL_POLICY", "pixel_policy.pt"), weights_only=True)
    policy = PixelPolicy(weights["sensor_scale"].shape[1], weights["action_scale"].shape[1])
    policy.load_state_dict(weights)
    return policy.eval()


def train(data: Path, output: Path, steps: int, batch: int = 128) -> None:
    """Imitate all that lies in ``data``."""
    dataset = Dataset.open(data)
    trajectories = [dataset[i] for i in range(len(dataset))]
    first = np.cumsum([0] + [len(t) for t in trajectories])
    sensors, actions = (np.concatenate([getattr(t, name) for t in trajectories]) for name in ("sensor", "action"))
    goals = torch.tensor([goal(t.instruction) for t in trajectories])
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    policy = PixelPolicy(sensors.shape[1], actions.shape[1])
    for scale, values in ((policy.sensor_scale, sensors), (policy.action_scale, actions)):
        scale.copy_(torch.from_numpy(np.stack([values.mean(0), values.std(0) + 1e-3])))
    policy.action_limits.copy_(torch.from_numpy(np.stack([actions.min(0), actions.max(0)])))
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    bar = tqdm(range(steps))
    for _ in bar:
        drawn = rng.integers(first[-1], size=batch)
        episode = np.searchsorted(first, drawn, "right") - 1
        images = [trajectories[i].images["overhead"][step - first[i]] for i, step in zip(episode, drawn, strict=True)]
        ahead = np.minimum(drawn[:, None] + np.arange(CHUNK), first[episode + 1][:, None] - 1)
        told = policy(torch.from_numpy(np.stack(images)), torch.from_numpy(sensors[drawn]), goals[episode])
        loss = ((told - torch.from_numpy(actions[ahead])) / policy.action_scale[1]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(l1=f"{float(loss.detach()):.3f}", refresh=False)
    torch.save(policy.state_dict(), output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train it on episodes of navigation's heedless driver")
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("--output", type=Path, default=Path("pixel_policy.pt"), help="weights (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps (default: %(default)s)")
    arguments = parser.parse_args()
    train(arguments.data, arguments.output, arguments.steps)
