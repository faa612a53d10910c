"""Open-loop prediction: k latent steps from one observation and the actions alone, against simpler predictors.

Errors are in latent space and, through one linear probe for all predictors, in the units of the true state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tc_mmwm_core.data.windows import WindowSampler
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.latents import LinearProbe, linear_state
from tc_mmwm_core.training.objective import fuse_batch

HORIZONS = (1, 2, 5, 10, 25, 50)  # k of tables


class OpenLoopError(ValueError):
    """Nothing reaches that far ahead."""


@dataclass(frozen=True)
class OpenLoop:
    """Errors at k = 1..K, each over the windows that reach as far.

    By predictor: ``model``, g_k; ``copy``, the first latent kept; ``linear``, a linear map of latent and action,
    iterated; and ``encoder``, the latent of the frame that came, which is no prediction: its state error is what the
    probe itself costs.

    Attributes:
        latent: [K], mean squared error over the variance of the latents: 1 is what their mean would give.
        state: [K, P], root of the mean squared error of each of ``names``, in ``units``.
        names, units: of the state's variables, an angle as its cosine and sine.
        windows: [K], how many the means are over.
    """

    latent: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    names: tuple[str, ...]
    units: tuple[str, ...]
    windows: np.ndarray

    @property
    def columns(self) -> list[str]:
        """Names of the state's variables with their units."""
        return [f"{name} [{unit}]" if unit else name for name, unit in zip(self.names, self.units, strict=True)]


@dataclass(frozen=True)
class _Latents:
    """z [N, T, D], actions [N, T, A] and true states [N, T, P] of windows; NaN (of actions, 0) where one is shorter."""

    z: np.ndarray
    actions: np.ndarray
    state: np.ndarray


def open_loop(model: WorldModel, fitted: LabelledData, held_out: LabelledData, steps: int) -> OpenLoop:
    """Errors over windows of ``held_out`` with up to ``steps`` latent steps to predict, one or more of each trajectory.

    A trajectory that ends sooner, at its goal say, counts as far as it goes: the longest alone are those that never get
    there.

    ``fitted``: simulated trajectories that the linear map and the probe are fitted to; not the held-out ones.

    Raises:
        OpenLoopError: no held-out trajectory reaches ``steps``.
    """
    domain = held_out.domain
    assert domain is not None, "the true state is a simulator's"
    model.eval()
    known, truth = _encoded(model, fitted, 1), _encoded(model, held_out, steps)
    came = truth.z[:, 1:]
    reached = np.isfinite(came).all(-1)  # [N, K]
    if not reached[:, -1].any():
        needed = (steps + 1) * model.config.frame_skip
        raise OpenLoopError(f"no held-out trajectory has {needed} valid control steps, which k = {steps} needs")
    z, a, after = known.z[:, 0], known.actions[:, 0], known.z[:, 1]
    step = LinearProbe(np.concatenate([z, a], 1), after)
    units = list(domain.state.values())
    probe = LinearProbe(z, linear_state(known.state[:, 0], units))
    with torch.no_grad():
        rolled = model.rollout(torch.from_numpy(truth.z[:, 0]), torch.from_numpy(truth.actions[:, :steps])).numpy()
    linear = [truth.z[:, 0]]
    for k in range(steps):
        linear.append(step(np.concatenate([linear[-1], truth.actions[:, k]], 1)))
    predicted = {
        "model": rolled,
        "copy": np.broadcast_to(truth.z[:, :1], came.shape),
        "linear": np.stack(linear[1:], 1),
        "encoder": came,
    }
    spread = z.var(0).sum()
    states = np.stack([linear_state(truth.state[:, k + 1], units) for k in range(steps)], 1)
    names: list[str] = []
    for name, unit in domain.state.items():
        names += [f"cos {name}", f"sin {name}"] if unit == "rad" else [name]
    latent = {name: np.square(x - came).sum(-1).mean(0, where=reached) for name, x in predicted.items()}
    state = {name: np.square(probe(x) - states).mean(0, where=reached[..., None]) for name, x in predicted.items()}
    return OpenLoop(
        latent={name: error / spread for name, error in latent.items()},
        state={name: np.sqrt(error) for name, error in state.items()},
        names=tuple(names),
        units=tuple("" if name.startswith(("cos ", "sin ")) else domain.state[name] for name in names),
        windows=reached.sum(0),
    )


@torch.no_grad()
def _encoded(model: WorldModel, data: LabelledData, ahead: int) -> _Latents:
    """Windows of 1 + ``ahead`` latent steps, one after the other, under the recorded instructions.

    The last one of a trajectory is as long as the trajectory reaches, if that leaves anything to predict.
    """
    skip = model.config.frame_skip
    size = (1 + ahead) * skip
    sampler = WindowSampler(data.datasets, batch=1, length=(1, 1))
    columns: list[tuple[np.ndarray, ...]] = []
    for d, dataset in enumerate(data.datasets):
        for t in range(len(dataset)):
            unbroken = dataset[t].unbroken
            starts = np.arange(unbroken.start, unbroken.stop - 2 * skip + 1, size)
            lengths = np.minimum(size, (unbroken.stop - starts) // skip * skip)
            for length in np.unique(lengths).tolist():
                alike = starts[lengths == length]
                same = np.ones(len(alike), np.int64)
                windows = sampler.gather(same * d, same * t, alike, length)
                batch = data.assemble(windows, np.zeros((len(alike), 1), np.int64))
                found = fuse_batch(model, batch)[0].numpy(), batch.actions.numpy(), windows.state[:, ::skip]
                missing = ((0, 0), (0, 1 + ahead - length // skip), (0, 0))
                fills = zip(found, (np.nan, 0, np.nan), strict=True)
                columns.append(tuple(np.pad(each, missing, constant_values=fill) for each, fill in fills))
    if not columns:
        return _Latents(*(np.zeros((0, 1 + ahead, 1), np.float32) for _ in range(3)))
    return _Latents(*(np.concatenate(column) for column in zip(*columns, strict=True)))
