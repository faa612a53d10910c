"""What tells of a collapse, on held-out frames: spread of the latents, SIGReg, and what can be read from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from tc_mmwm_core.data.windows import WindowSampler
from tc_mmwm_core.losses.sigreg import random_directions, sigreg
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.latents import effective_rank, linear_probe_r2, linear_state, variance
from tc_mmwm_core.training.objective import fuse_batch

PROJECTIONS = 256


@dataclass(frozen=True)
class HeldOutFrames:
    """F frames of each of N held-out trajectories, under the recorded instructions.

    Attributes:
        batch: of N · F windows of one latent step, trajectory by trajectory.
        state: what the simulator knew of them, angles as cosine and sine, float32 [N · F, P]; NaN where nobody did.
        count: N.
    """

    batch: Batch
    state: np.ndarray
    count: int

    @classmethod
    def of(cls, data: LabelledData, trajectories: int = 128, frames: int = 8) -> HeldOutFrames:
        """Evenly spaced frames of the first ``trajectories``, from each one's longest run of valid steps."""
        skip = data.config.model.frame_skip
        places = [(d, t) for d, dataset in enumerate(data.datasets) for t in range(len(dataset))][:trajectories]
        rows = []
        for d, t in places:
            unbroken = data.datasets[d][t].unbroken
            if unbroken.stop - unbroken.start >= skip:
                starts = np.linspace(unbroken.start, unbroken.stop - skip, frames).astype(int)
                rows.extend((d, t, start) for start in starts)
        dataset, trajectory, start = np.array(rows, np.int64).reshape(-1, 3).T
        windows = WindowSampler(data.datasets, batch=1, length=(1, 1)).gather(dataset, trajectory, start, skip)
        batch = data.assemble(windows, np.zeros((len(rows), 1), np.int64))
        states = np.full((len(rows), 1), np.nan) if windows.state is None else windows.state[:, 0]
        known = data.domain is not None and windows.state is not None  # real recordings may have none
        units = list(data.domain.state.values()) if known else [""] * states.shape[1]
        return cls(batch, linear_state(states, units), len(rows) // frames)

    def to(self, device: torch.device | str) -> HeldOutFrames:
        """Copy the batch to a device."""
        return replace(self, batch=self.batch.to(device))


@torch.no_grad()
def collapse(model: WorldModel, frames: HeldOutFrames) -> dict[str, float]:
    """Measures of z (``_fused``) and of z_v (``_visual``) over ``frames``.

    ``effective_rank``; ``latent_variance``, mean over the dimensions; ``sigreg``, a test for each of the F frames over
    the N trajectories: a Gaussian's is 1.05, full collapse 0.40 N; ``probe_r2``: R² of the true state read linearly, on
    trajectories that the probe was not fitted to, mean over its variables.
    """
    was_training = model.training
    model.eval()
    z, z_v = (latents[:, 0] for latents in fuse_batch(model, frames.batch))
    model.train(was_training)
    directions = random_directions(z.shape[-1], PROJECTIONS, seed=0, device=z.device)
    owners = np.repeat(np.arange(frames.count), len(z) // frames.count)
    known = np.isfinite(frames.state).all(1)
    measures = {}
    for name, latents in (("fused", z), ("visual", z_v)):
        values = latents.double().cpu().numpy()
        measures[f"effective_rank_{name}"] = effective_rank(values)
        measures[f"latent_variance_{name}"] = float(variance(values).mean())
        measures[f"sigreg_{name}"] = sigreg(latents.unflatten(0, (frames.count, -1)).transpose(0, 1), directions).item()
        if len(np.unique(owners[known])) > 1:
            r2 = linear_probe_r2(values[known], frames.state[known], owners[known])
            measures[f"probe_r2_{name}"] = float(np.nanmean(r2))
    return measures
