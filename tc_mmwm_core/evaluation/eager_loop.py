"""L_total as one would first write it: a loop over time steps that encodes a frame and calls g once a step.

The same mathematics as :mod:`tc_mmwm_core.training.objective`, which batches time, depth and candidates: the reference
that its values are tested against, and what ``tc-mmwm bench train`` compares its speed with. The equations stand here
as the method writes them; only SIGReg, which has no time in it, is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tc_mmwm_core.losses.sigreg import random_directions, sigreg
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig


@dataclass(frozen=True)
class _Encoded:
    """One instruction on every window; lists run over time steps or, where they say so, decisions."""

    z_v: list[Tensor]  # [B, D]
    z_s: list[Tensor]
    z: list[Tensor]
    context: dict[int, Tensor]  # by decision step, [B, C]


def eager_terms(
    model: WorldModel,
    batch: Batch,
    stage: StageConfig,
    config: ObjectiveConfig,
    generator: torch.Generator,
    directions_seed: int,
) -> dict[str, Tensor]:
    """Raw loss terms by name; draws from ``generator`` what :func:`tc_mmwm_core.training.objective.terms` draws."""
    windows, steps = batch.valid.shape
    several = batch.tokens.shape[1]
    dynamics = stage.name != "reconstruction"
    depth = int(torch.randint(config.min_rollout, config.max_rollout + 1, (), generator=generator))
    latest = max(1, steps - depth) if dynamics else steps
    starts = torch.randperm(latest, generator=generator)[: stage.starts].sort().values.tolist()
    span = min(depth, steps - 1)
    drawn = None
    if stage.name == "full":
        shape = (windows, several, len(starts), config.counterfactuals, batch.actions.shape[-1])
        drawn = 2 * torch.rand((windows * several, *shape[2:]), generator=generator).reshape(shape) - 1

    sums: dict[str, Tensor] = {}

    def add(name: str, values: Tensor, where: Tensor) -> None:
        """The mean over all windows and instructions of ``values`` [B] where ``where`` [B] holds."""
        share = torch.where(where, values, 0.0).sum() / (windows * several)
        sums[name] = sums.get(name, 0.0) + share

    for m in range(several):
        seen = _encode(model, batch, m, starts)
        if m == 0:
            _without_instruction(sums, model, batch, seen, starts, config, directions_seed)
        for which, t in enumerate(starts):
            context = seen.context[t]
            _of_decision(add, model, batch, m, t, seen.z[t], context, config)
            z = seen.z[t]
            _judge(add, model, batch, m, t, z, context, config)
            if dynamics:
                for k in range(span):
                    z = model.next(z, batch.actions[:, t + k])
                    _judge(add, model, batch, m, t + k + 1, z, context, config)
            if drawn is not None:
                _action(add, model, batch, seen.z[t], t, drawn[:, m, which], config)
        if dynamics:
            _dynamics(add, model, batch, seen.z, span, stage.name == "full", config)
    return sums


def _encode(model: WorldModel, batch: Batch, m: int, starts: list[int]) -> _Encoded:
    words, z_l = model.instruct(batch.tokens[:, m], batch.mask[:, m])
    z_v, z_s, z, context = [], [], [], {}
    for t in range(batch.valid.shape[1]):
        features, visual, sensed = model.encode([image[:, t] for image in batch.images], batch.sensor[:, t])
        z_v.append(visual)
        z_s.append(sensed)
        z.append(model.compose(visual, z_l, sensed)[0])
        if t in starts:
            context[t] = model.ground(features, words, batch.mask[:, m], z_l)
    return _Encoded(z_v, z_s, z, context)


def _without_instruction(
    sums: dict[str, Tensor],
    model: WorldModel,
    batch: Batch,
    seen: _Encoded,
    starts: list[int],
    config: ObjectiveConfig,
    directions_seed: int,
) -> None:
    """SIGReg over the windows at every time step, reconstruction at the decision steps."""
    here = batch.valid.device
    directions = random_directions(model.config.latent, config.projections, directions_seed, device=here)
    tested = [t for t in range(batch.valid.shape[1]) if batch.valid[:, t].any()]
    for name, latents in (("sigreg_visual", seen.z_v), ("sigreg_fused", seen.z)):
        values = [sigreg(latents[t], directions, batch.valid[:, t]) for t in tested]
        sums[name] = torch.stack(values).mean()
    sums["reconstruction"] = torch.zeros((), device=here)
    for t in starts:
        image, sensor = model.reconstruct(seen.z_v[t], seen.z_s[t])
        pixels = batch.images[0][:, t].permute(0, 3, 1, 2) / 127.5 - 1
        error = (image - functional.avg_pool2d(pixels, 4)).square().mean((1, 2, 3))
        error = error + (sensor - model.sensor.normalise(batch.sensor[:, t])).square().mean(1)
        sums["reconstruction"] = sums["reconstruction"] + torch.where(batch.valid[:, t], error, 0.0).mean()


def _of_decision(add, model: WorldModel, batch: Batch, m: int, t: int, z: Tensor, context: Tensor, config) -> None:
    """Referring, presence, field and proposal at decision step ``t``."""
    judged = batch.cost[:, m].isfinite().any(1)
    pointed, named = model.refer(context), batch.referents[:, m]
    for r in range(pointed.shape[1]):
        there = named[:, r, 3] > 0.5
        for axis in range(3):
            distance = (pointed[:, r, axis] - named[:, r, axis]).abs()
            add("referring", _huber(distance, 0.1) / 0.1, judged & there)
        chance = pointed[:, r, 3].sigmoid()
        add("referring", -torch.where(there, chance, 1 - chance).log(), judged)

    field = model.field_of(context)[:, :2]
    cost, margin = batch.field[:, m, 0], batch.field[:, m, 1]
    target = torch.stack([-cost.clamp(max=config.cost_limit), _score(margin, config)], 1)
    target = functional.interpolate(target, field.shape[-2:], mode="area")
    for channel in range(2):
        known = target[:, channel].isfinite().all(-1).all(-1)
        gap = (field[:, channel] - target[:, channel].nan_to_num()).abs()
        add("field", (_huber(gap, 0.2) / 0.2).mean((1, 2)), known)

    proposed = model.propose(z, context)
    for k in range(proposed.shape[1]):
        error = (proposed[:, k] - batch.plan[:, t, k]).square().sum(1)
        add("proposal", error, batch.plan_valid[:, t, k] & batch.expert[:, m])


def _judge(add, model: WorldModel, batch: Batch, m: int, t: int, z: Tensor, context: Tensor, config) -> None:
    """Violation, progress and place of a latent that stands for step ``t``."""
    violation, progress = (score[:, 0] for score in model.judge(z[:, None], context))
    valid, label, margin = batch.valid[:, t], batch.violation[:, m, t], batch.margin[:, m, t]
    add("constraint", violation.clamp(min=0), valid & (label == 0))
    add("violation", (config.violation_margin - violation).clamp(min=0), valid & (label == 1))
    add("margin", _huber((violation - _score(margin, config).nan_to_num()).abs(), 1.0), valid & margin.isfinite())
    cost = batch.cost[:, m, t]
    add("progress", _huber((progress + cost.nan_to_num()).abs(), 0.2) / 0.2, valid & cost.isfinite())
    located, there = model.reader.place(z), batch.place[:, t]
    for axis in range(2):
        distance = (located[:, axis] - there[:, axis].nan_to_num()).abs()
        add("place", _huber(distance, 0.05) / 0.05, valid & there[:, 0].isfinite())


def _dynamics(add, model: WorldModel, batch: Batch, z: list[Tensor], span: int, full: bool, config) -> None:
    """L_state at every step and L_rollout from every step that has ``span`` steps ahead."""
    target = [x.detach() for x in z] if config.stop_gradient else z
    for t in range(len(z) - 1):
        error = (model.next(z[t], batch.actions[:, t]) - target[t + 1]).square().sum(1)
        add("state", error, batch.valid[:, t] & batch.valid[:, t + 1])
    for t in range(len(z) - span if full else 0):
        imagined, alive = z[t], batch.valid[:, t]
        for k in range(1, span + 1):
            imagined = model.next(imagined, batch.actions[:, t + k - 1])
            alive = alive & batch.valid[:, t + k]
            if k > 1:
                add("rollout", (imagined - target[t + k]).square().sum(1), alive)


def _action(add, model: WorldModel, batch: Batch, z: Tensor, t: int, drawn: Tensor, config) -> None:
    """L_action over the counterfactual actions ``drawn`` [B, M, A] at step ``t``."""
    actions = drawn.to(z.device)
    futures = [model.next(z, actions[:, i]) for i in range(actions.shape[1])]
    for i in range(len(futures)):
        for j in range(len(futures)):
            if i != j:
                scale = (actions[:, i] - actions[:, j]).norm(dim=1) if config.scale_by_action_distance else 1.0
                distance = (futures[i] - futures[j]).norm(dim=1)
                add("action", scale / (distance + config.action_eps), batch.valid[:, t])


def _huber(distance: Tensor, delta: float) -> Tensor:
    return torch.where(distance <= delta, distance.square() / 2, delta * (distance - delta / 2))


def _score(margin: Tensor, config: ObjectiveConfig) -> Tensor:
    return (margin / config.margin_scale).clamp(-config.margin_limit, config.margin_limit)
