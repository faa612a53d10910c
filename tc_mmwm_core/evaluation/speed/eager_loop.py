"""L_total as one would first write it: loops over time steps that encode one frame and call g once per step.

The same mathematics as :mod:`tc_mmwm_core.training.objective`, which batches time and candidates: the reference that
its values and gradients are tested against, and what ``tc-mmwm bench train`` compares its speed with. Windows and their
instructions are batched here too. The equations stand as the method writes them; only SIGReg's own is shared, and
how an oracle's grid is laid over the field.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tc_mmwm_core.losses.field import OPEN
from tc_mmwm_core.losses.sigreg import random_directions, sigreg
from tc_mmwm_core.models.eikonal import slowness_of
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig
from tc_mmwm_core.training.objective import SHARP, on_grid


def eager_terms(
    model: WorldModel,
    batch: Batch,
    stage: StageConfig,
    config: ObjectiveConfig,
    generator: torch.Generator,
    directions_seed: int,
) -> dict[str, Tensor]:
    """Raw loss terms by name; draws from ``generator`` what :func:`tc_mmwm_core.training.objective.terms` draws."""
    steps = batch.valid.shape[1]
    depth = int(torch.randint(config.min_rollout, config.max_rollout + 1, (), generator=generator))
    latest = max(1, steps - depth) if stage.kind.predicts else steps
    starts = torch.randperm(latest, generator=generator)[: stage.starts].sort().values.tolist()
    span = min(depth, steps - 1)

    sums: dict[str, Tensor] = {}
    rows = _Rows.of(batch)
    decided = [*starts, steps - 1] if stage.kind.predicts else starts
    seen = _encode(model, batch, rows, decided, stage.name != "grounding")
    for t, logit in enumerate(seen.visible):
        chance, visible = logit.sigmoid(), batch.visible[:, t]
        known, visible = visible.isfinite(), visible.nan_to_num()
        entropy = -(known * (visible * chance.log() + (1 - visible) * (1 - chance).log())).mean(1)
        sums["visibility"] = sums.get("visibility", 0.0) + torch.where(batch.valid[:, t], entropy, 0.0).mean()
    for t, heat in enumerate(seen.keypoints):
        places = torch.cat([batch.place[:, t], batch.elsewhere[:, t].flatten(1)], 1)
        _find(sums, heat, model.keypoints.places(seen.told[t]), places, batch.valid[:, t])
    if stage.name != "grounding":
        _of_frames(sums, model, batch, seen, decided, config, directions_seed)

    def add(name: str, values: Tensor, where: Tensor) -> None:
        """The mean over the rows of ``values`` [N] where ``where`` [N] holds."""
        sums[name] = sums.get(name, 0.0) + torch.where(where, values, 0.0).mean()

    drawn = None
    if stage.name == "full":
        shape = (len(rows.valid), len(starts), config.counterfactuals, batch.actions.shape[-1])
        drawn = (2 * torch.rand(shape, generator=generator) - 1).to(batch.valid.device)
    for t in decided:
        _refer(add, model, rows, seen.context[t])
        if stage.name != "grounding":
            _of_decision(add, model, rows, t, seen.z[t], seen.context[t], config)
    for which, t in enumerate(starts if stage.name != "grounding" else ()):
        z, context = seen.z[t], seen.context[t]
        _judge(add, model, rows, t, z, torch.zeros_like(rows.actions[:, t]), context, config)
        for k in range(span if stage.kind.predicts else 0):
            z = model.next(z, rows.actions[:, t + k])
            _judge(add, model, rows, t + k + 1, z, rows.actions[:, t + k], context, config)
        if drawn is not None:
            _action(add, model, rows, seen.z[t], t, drawn[:, which], config)
    if stage.kind.predicts:
        _dynamics(add, model, rows, seen.z, span, stage.name == "full", config)
    return sums


@dataclass(frozen=True)
class _Rows:
    """The batch with a row for each instruction on each window, N = B · M; see :class:`Batch` for what they are."""

    repeats: int
    sensor: Tensor
    valid: Tensor
    actions: Tensor
    plan: Tensor
    plan_valid: Tensor
    place: Tensor
    tokens: Tensor
    mask: Tensor
    margin: Tensor
    cost: Tensor
    violation: Tensor
    referents: Tensor
    field: Tensor
    expert: Tensor
    advice: Tensor

    @classmethod
    def of(cls, batch: Batch) -> _Rows:
        repeats = batch.tokens.shape[1]
        of_windows = ("sensor", "valid", "actions", "plan", "plan_valid", "place")
        of_instructions = ("tokens", "mask", "margin", "cost", "violation", "referents", "field", "expert", "advice")
        return cls(
            repeats,
            **{name: getattr(batch, name).repeat_interleave(repeats, 0) for name in of_windows},
            **{name: getattr(batch, name).flatten(0, 1) for name in of_instructions},
        )


@dataclass(frozen=True)
class _Seen:
    """What was encoded; the lists run over time steps."""

    visible: list[Tensor]  # [B, P]
    keypoints: list[Tensor]  # [B, cameras · bodies, H, W]
    told: list[Tensor]  # [B, size]
    z_v: list[Tensor]  # [B, D]
    z_s: list[Tensor]  # [B, D]
    z: list[Tensor]  # [N, D]
    context: dict[int, Tensor]  # by decision step, [N, C]
    repeats: int


def _encode(model: WorldModel, batch: Batch, rows: _Rows, starts: list[int], field: bool) -> _Seen:
    longest = int(rows.mask.sum(-1).max())
    mask = rows.mask[:, :longest]
    words, z_l = model.instruct(rows.tokens[:, :longest], mask)
    seen = _Seen([], [], [], [], [], [], {}, rows.repeats)
    memory = None
    for t in range(batch.valid.shape[1]):
        now = slice(t, t + 1)
        encoded = model.encode([image[:, now] for image in batch.images], batch.sensor[:, now], memory)
        (features, z_v, z_s), memory = (x[:, 0] for x in encoded[:3]), encoded.memory
        seen.visible.append(encoded.visible[:, 0])
        if encoded.keypoints is not None:
            seen.keypoints.append(encoded.keypoints[:, 0])
        seen.told.append(encoded.told[:, 0])
        z, _ = model.compose(z_v.repeat_interleave(rows.repeats, 0), z_l, z_s.repeat_interleave(rows.repeats, 0))
        seen.z_v.append(z_v)
        seen.z_s.append(z_s)
        seen.z.append(z)
        if t in starts:
            seen.context[t] = model.ground(features, words, mask, z_l, seen.told[t], field)
    return seen


def _of_frames(
    sums: dict[str, Tensor],
    model: WorldModel,
    batch: Batch,
    seen: _Seen,
    starts: list[int],
    config: ObjectiveConfig,
    directions_seed: int,
) -> None:
    """SIGReg over the windows at every time step, reconstruction at the decision steps."""
    here = batch.valid.device
    directions = random_directions(model.config.latent, config.projections, directions_seed, device=here)
    tested = [t for t in range(batch.valid.shape[1]) if batch.valid[:, t].any()]
    fused = [z[:: seen.repeats] for z in seen.z]
    for name, latents in (("sigreg_visual", seen.z_v), ("sigreg_fused", fused)):
        values = [sigreg(latents[t], directions, batch.valid[:, t]) for t in tested]
        sums[name] = torch.stack(values).mean()
    sums["reconstruction"] = torch.zeros((), device=here)
    for t in starts:
        image, sensor = model.reconstruct(seen.z_v[t], seen.z_s[t])
        pixels = batch.images[0][:, t].permute(0, 3, 1, 2) / 127.5 - 1
        small = functional.avg_pool2d(pixels, 4)
        shown = batch.visible[:, t, : small[0, 0].numel()].nan_to_num(1.0)
        shown = shown.reshape(len(small), 1, *small.shape[-2:])
        error = ((image - small) * shown).square().mean((1, 2, 3))
        error = error + (sensor - model.sensor.normalise(batch.sensor[:, t])).square().mean(1)
        sums["reconstruction"] = sums["reconstruction"] + torch.where(batch.valid[:, t], error, 0.0).mean()


def _find(sums: dict[str, Tensor], heat: Tensor, found: Tensor, place: Tensor, valid: Tensor) -> None:
    """Keypoints at a time step: a place's four nearest cells share it by their distance; and what they say it is."""
    height, width = heat.shape[-2:]
    own = place[:, : found.shape[1]]
    gap = torch.where((valid & own.isfinite().all(1))[:, None], found - own, 0.0).abs()
    sums["keypoints"] = sums.get("keypoints", 0.0) + (_huber(gap, SHARP) / SHARP).sum(1).mean()
    for body in range(heat.shape[1]):
        x, y = place[:, 2 * body], place[:, 2 * body + 1]
        known = valid & x.isfinite()
        column = ((x.nan_to_num() + 1) * width / 2 - 0.5).clamp(0, width - 1)
        row = ((1 - y.nan_to_num()) * height / 2 - 0.5).clamp(0, height - 1)
        chance = heat[:, body].flatten(1).softmax(1).unflatten(1, (height, width))
        every = torch.arange(len(heat))
        for j in (row.floor().long(), row.floor().long() + 1):
            for i in (column.floor().long(), column.floor().long() + 1):
                share = (1 - (row - j).abs()) * (1 - (column - i).abs())
                log = chance[every, j.clamp(max=height - 1), i.clamp(max=width - 1)].log()
                sums["keypoints"] = sums["keypoints"] - torch.where(known, share * log, 0.0).mean()


def _refer(add, model: WorldModel, rows: _Rows, context: Tensor) -> None:
    """Referring and presence at a decision step."""
    judged = rows.cost.isfinite().any(1)
    pointed, named = model.refer(context), rows.referents
    for r in range(pointed.shape[1]):
        there = named[:, r, 3] > 0.5
        for axis in range(3):
            distance = (pointed[:, r, axis] - named[:, r, axis]).abs()
            add("referring", _huber(distance, 0.1) / 0.1, judged & there)
        chance = pointed[:, r, 3].sigmoid()
        add("referring", -torch.where(there, chance, 1 - chance).log(), judged)


def _of_decision(add, model: WorldModel, rows: _Rows, t: int, z: Tensor, context: Tensor, config) -> None:
    """Field and proposal at decision step ``t``."""
    field = model.field_of(context)[:, :2]
    cost, margin = rows.field[:, 0], rows.field[:, 1]
    target = torch.stack([-cost.clamp(max=config.cost_limit), _score(margin, config)], 1)
    target = on_grid(target, field.shape[-2:])
    for channel in range(2):
        known = target[:, channel].isfinite().all(-1).all(-1)
        gap = field[:, channel] - target[:, channel].nan_to_num()
        weight = torch.where(gap < 0, config.prudence if channel == 1 else 1.0, 1.0)
        add("field", (weight * _huber(gap.abs(), 0.2) / 0.2).mean((1, 2)), known)
        if channel == 0:
            found, sought = (slowness_of(-x[:, 0]) for x in (field, target.nan_to_num()))
            gap = ((found + OPEN).log() - (sought + OPEN).log()).abs() * (target[:, 0] > -config.cost_limit)
            add("field", (_huber(gap, 0.2) / 0.2).mean((1, 2)), known)

    proposed = model.propose(z, context, rows.sensor[:, t])
    advice = rows.advice[:, t]
    advised = rows.valid[:, t] & advice.isfinite().all(1)
    for k in range(proposed.shape[1]):
        wanted, known = rows.plan[:, t, k], rows.plan_valid[:, t, k] & rows.expert
        if k == 0:
            wanted, known = torch.where(advised[:, None], advice, wanted), known | advised
        add("proposal", (proposed[:, k] - wanted).square().sum(1), known)


def _judge(add, model: WorldModel, rows: _Rows, t: int, z: Tensor, led: Tensor, context: Tensor, config) -> None:
    """Violation, progress and place of a latent that stands for step ``t``, to which the action ``led``."""
    violation, progress = (score[:, 0] for score in model.judge(z[:, None], context, led[:, None]))
    valid, label, margin = rows.valid[:, t], rows.violation[:, t], rows.margin[:, t]
    add("constraint", violation.clamp(min=0), valid & (label == 0))
    add("violation", (config.violation_margin - violation).clamp(min=0), valid & (label == 1))
    gap = violation - _score(margin, config).nan_to_num()
    weight = torch.where(gap < 0, config.prudence, 1.0)
    add("margin", weight * _huber(gap.abs(), 1.0), valid & margin.isfinite())
    cost = rows.cost[:, t]
    add("progress", _huber((progress + cost.nan_to_num()).abs(), 0.2) / 0.2, valid & cost.isfinite())
    located, there = model.reader.place(z), rows.place[:, t]
    for axis in range(located.shape[1]):
        distance = (located[:, axis] - there[:, axis].nan_to_num()).abs()
        add("place", _huber(distance, 0.05) / 0.05, valid & there[:, 0].isfinite())


def _dynamics(add, model: WorldModel, rows: _Rows, z: list[Tensor], span: int, full: bool, config) -> None:
    """L_state at every step and L_rollout from every step that has ``span`` steps ahead."""
    target = [x.detach() for x in z] if config.stop_gradient else z
    for t in range(len(z) - 1):
        imagined, alive = model.next(z[t], rows.actions[:, t]), rows.valid[:, t] & rows.valid[:, t + 1]
        add("state", (imagined - target[t + 1]).square().sum(1), alive)
        for k in range(2, span + 1 if full and t + span < len(z) else 0):
            imagined = model.next(imagined, rows.actions[:, t + k - 1])
            alive = alive & rows.valid[:, t + k]
            add("rollout", (imagined - target[t + k]).square().sum(1), alive)


def _action(add, model: WorldModel, rows: _Rows, z: Tensor, t: int, actions: Tensor, config) -> None:
    """L_action over the counterfactual ``actions`` [N, M, A] at step ``t``."""
    futures = [model.next(z, actions[:, i]) for i in range(actions.shape[1])]
    for i in range(len(futures)):
        for j in range(len(futures)):
            if i != j:
                scale = (actions[:, i] - actions[:, j]).norm(dim=1) if config.scale_by_action_distance else 1.0
                distance = (futures[i] - futures[j]).norm(dim=1)
                add("action", scale / (distance + config.action_eps), rows.valid[:, t])


def _huber(distance: Tensor, delta: float) -> Tensor:
    return torch.where(distance <= delta, distance.square() / 2, delta * (distance - delta / 2))


def _score(margin: Tensor, config: ObjectiveConfig) -> Tensor:
    return (margin / config.margin_scale).clamp(-config.margin_limit, config.margin_limit)
