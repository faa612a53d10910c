"""The terms of L_total on one batch (method, sections 4 to 8). Every equation is in its own file under losses/.

Time and candidates are batched: all T one-step predictions, all T rollouts and all M counterfactual actions are one
call of g each per step of depth, never a loop over time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tc_mmwm_core.losses.action_consistency import action_consistency, action_distance
from tc_mmwm_core.losses.constraint_violation import constraint_violation
from tc_mmwm_core.losses.counterfactual_rollout import counterfactual_rollout
from tc_mmwm_core.losses.field import crossing, field
from tc_mmwm_core.losses.keypoints import keypoints
from tc_mmwm_core.losses.margin import margin_regression
from tc_mmwm_core.losses.place import place
from tc_mmwm_core.losses.progress import progress
from tc_mmwm_core.losses.proposal import median_proposal, proposal
from tc_mmwm_core.losses.reconstruction import reconstruction
from tc_mmwm_core.losses.referring import presence, referring
from tc_mmwm_core.losses.sigreg import random_directions, sigreg
from tc_mmwm_core.losses.state_prediction import state_prediction
from tc_mmwm_core.losses.total_loss import LossWeights, total_loss
from tc_mmwm_core.losses.violation_hinge import violation_hinge
from tc_mmwm_core.losses.visibility import visibility
from tc_mmwm_core.models.eikonal import slowness_of
from tc_mmwm_core.models.encoders import CELL
from tc_mmwm_core.models.memory import keep
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.batch import Batch, Decisions, Followed, Foreseen, Glimpsed, Imagined, Located, Mapped
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig


@dataclass(frozen=True)
class Share:
    """Which of ``count`` equal parts of a whole batch this is: of several processes, or of one after the other."""

    index: int = 0
    count: int = 1

    def of(self, draws: Tensor) -> Tensor:
        """This share's rows of what was drawn for the whole batch."""
        return draws.tensor_split(self.count)[self.index]

    def rows(self, batch: int) -> slice:
        """This share's windows of ``batch``, a multiple of ``count``."""
        return slice(self.index * batch // self.count, (self.index + 1) * batch // self.count)

    def part(self, index: int, count: int) -> Share:
        """Part ``index`` of ``count`` of this share."""
        return Share(self.index * count + index, self.count * count)


WHOLE = Share()
SHARP = 0.02  # δ of the keypoints' places: 7 mm over manipulation's view of 0.7 m


@dataclass(frozen=True)
class Losses:
    """L_total of a batch; all but ``total`` are detached."""

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    alpha: Tensor | None  # [3], mean over the batch; None where nothing is composed


class Objective(nn.Module):
    """L_total as one module: what autocast surrounds, and what DistributedDataParallel wraps.

    ``group``: processes that hold the other shares of each batch; SIGReg, a statistic of the batch, is taken over all.
    """

    def __init__(
        self,
        model: WorldModel,
        config: ObjectiveConfig,
        weights: LossWeights,
        bf16: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.weights, self.bf16, self.group = model, config, weights, bf16, group

    def forward(
        self,
        batch: Batch | Decisions | Followed | Foreseen | Glimpsed | Imagined | Located | Mapped,
        stage: StageConfig,
        seed: int,
        share: Share = WHOLE,
    ) -> Losses:
        """The losses of one optimizer step; everything that is drawn follows from ``seed``."""
        alpha = None
        with torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16, enabled=self.bf16):
            match batch:
                case Decisions():
                    raw = {"proposal": median_proposal(self.model.policy(batch.seen), batch.wanted, batch.known)}
                case Followed():
                    raw = prediction_losses(self.model.rollout(batch.z[:, 0], batch.actions), batch.z, batch.valid)
                case Glimpsed():
                    logit = self.model.memory.gate(batch.frame, batch.remembered)
                    raw = {"visibility": visibility(logit[:, None], batch.visible[:, None], batch.valid[:, None])}
                case Located():
                    heat, told = self.model.keypoints(batch.features.float(), batch.reading)
                    raw = {"keypoints": keypoint_loss(self.model, heat[:, None], told[:, None], batch)}
                case Mapped():
                    raw = grounding_losses(self.model, batch, self.config)
                case Imagined():
                    v, p = self.model.score(batch.z, batch.read, batch.summary, batch.action)
                    raw = judgement_losses(v, p, batch.margin, batch.cost, batch.violation, batch.valid, self.config)
                case Foreseen():
                    raw = foresight_losses(self.model, batch, self.config)
                case _:
                    generator = torch.Generator().manual_seed(seed)
                    raw, latents = terms(self.model, batch, stage, self.config, generator, seed, share, self.group)
                    alpha = latents.alpha.detach().flatten(0, -2).mean(0)
        return Losses(*total_loss(raw, stage.loss_weights(self.weights)), alpha)


@dataclass(frozen=True)
class Latents:
    """What :func:`encode_batch` computes once for all terms. N = B · M."""

    z: Tensor  # [N, T, D]
    z_v: Tensor  # [B, T, D]
    z_s: Tensor  # [B, T, D]
    alpha: Tensor  # [N, T, 3]
    visible: Tensor  # [B, T, P]
    keypoints: Tensor | None  # [B, T, cameras · bodies, H, W]
    told: Tensor  # [B, T, size]
    context: Tensor  # [N, S, C] at the S decision steps
    starts: Tensor  # int64 [S]

    def of(self, decisions: slice) -> Latents:
        """With some of the decision steps only."""
        return replace(self, context=self.context[:, decisions], starts=self.starts[decisions])


def encode_batch(model: WorldModel, batch: Batch, starts: Tensor, field: bool = True) -> Latents:
    """Encode every frame once, compose it with each of the window's M instructions, ground it at the decision steps.

    ``field``: see :meth:`WorldModel.ground`.
    """
    windows, steps = batch.valid.shape
    several = batch.tokens.shape[1]
    longest = int(batch.mask.sum(-1).max())
    mask = batch.mask.flatten(0, 1)[:, :longest]
    words, z_l = model.instruct(batch.tokens.flatten(0, 1)[:, :longest], mask)
    seen = model.encode(batch.images, batch.sensor)

    def repeat(x: Tensor) -> Tensor:  # [B, T, D] -> [N, T, D]
        return x[:, None].expand(-1, several, -1, -1).flatten(0, 1)

    z, alpha = model.compose(repeat(seen.z_v), z_l[:, None].expand(-1, steps, -1), repeat(seen.z_s))
    features = seen.features[:, starts].flatten(0, 1)  # [B · S, P, E]

    def at_starts(x: Tensor) -> Tensor:  # [N, ...] -> [B · S · M, ...]
        return x.unflatten(0, (windows, 1, several)).expand(-1, len(starts), -1, *x.shape[1:]).flatten(0, 2)

    told = seen.told[:, starts].flatten(0, 1)
    context = model.ground(features, at_starts(words), at_starts(mask), at_starts(z_l), told, field)
    context = context.unflatten(0, (windows, len(starts), several)).transpose(1, 2).flatten(0, 1)
    return Latents(z, seen.z_v, seen.z_s, alpha, seen.visible, seen.keypoints, seen.told, context, starts)


def fuse_batch(model: WorldModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """z and z_v, both [B, T, D], under each window's first instruction; nothing is grounded."""
    _, z_l = model.instruct(batch.tokens[:, 0], batch.mask[:, 0])
    seen = model.encode(batch.images, batch.sensor)
    z, _ = model.compose(seen.z_v, z_l[:, None].expand_as(seen.z_v), seen.z_s)
    return z, seen.z_v


def terms(
    model: WorldModel,
    batch: Batch,
    stage: StageConfig,
    config: ObjectiveConfig,
    generator: torch.Generator,
    directions_seed: int,
    share: Share = WHOLE,
    group: dist.ProcessGroup | None = None,
) -> tuple[dict[str, Tensor], Latents]:
    """Raw loss terms by name, and the latents they were computed from.

    ``generator`` (CPU) draws decision steps, rollout depth and counterfactual actions, the same for every share of a
    batch as for the whole; ``directions_seed`` SIGReg's directions. Stage ``grounding`` points at what is named,
    finds the bodies and tells what is hidden, no more; ``reconstruction`` judges the encoded latents themselves; the
    later stages judge imagined ones.
    """
    steps = batch.valid.shape[1]
    depth = int(torch.randint(config.min_rollout, config.max_rollout + 1, (), generator=generator))
    latest = max(1, steps - depth) if stage.kind.predicts else steps
    starts = _decision_steps(stage, latest, generator).to(batch.valid.device)
    if "field" not in stage.kind.terms:  # what is named is pointed at without it
        latents = encode_batch(model, batch, starts, field=False)
        return _referring_terms(model, latents.context, *_named(batch)) | _seeing_terms(model, batch, latents), latents
    # What is grounded at the last step rests on all that the window has shown: so memory learns what is worth keeping.
    last = starts.new_tensor([steps - 1] if stage.kind.predicts else [])
    latents = encode_batch(model, batch, torch.cat([starts, last]))
    judged = latents.of(slice(len(starts)))
    several = batch.tokens.shape[1]
    valid = batch.valid[:, None].expand(-1, several, -1).flatten(0, 1)  # [N, T]

    directions = random_directions(latents.z.shape[-1], config.projections, directions_seed, device=latents.z.device)
    # One test a time step over the windows: steps of one window are no independent samples.
    over_windows = batch.valid.transpose(0, 1)
    out = {
        "sigreg_visual": sigreg(latents.z_v.transpose(0, 1), directions, over_windows, group),
        "sigreg_fused": sigreg(latents.z[::several].transpose(0, 1), directions, over_windows, group),
        **_reconstruction_terms(model, batch, latents),
        **_referring_terms(model, latents.context, *_named(batch)),
        **_seeing_terms(model, batch, latents),
        **_field_terms(model, latents.context, batch.field.flatten(0, 1), config),
        **_proposal_terms(model, batch, latents),
    }
    actions = batch.actions[:, None].expand(-1, several, -1, -1).flatten(0, 1)  # [N, T, A]
    if not stage.kind.predicts:
        return out | _judgement_terms(model, batch, judged, *ahead(judged, actions, 0), config), latents

    target = latents.z.detach() if config.stop_gradient else latents.z
    span = min(depth, steps - 1)
    windows = actions.unfold(1, span, 1).transpose(-1, -2)[:, : steps - span]  # [N, T', K, A]
    rolled = model.rollout(latents.z[:, : steps - span], windows)  # [N, T', K, D]
    future = target.unfold(1, span + 1, 1).transpose(-1, -2)[..., 1:, :]  # [N, T', K, D]
    alive = valid.unfold(1, span + 1, 1).cumprod(-1).bool()[..., 1:]  # [N, T', K]
    tail = model.next(latents.z[:, steps - span : -1], actions[:, steps - span : -1])  # the last one-step predictions
    out["state"] = state_prediction(torch.cat([rolled[:, :, 0], tail], 1), target[:, 1:], valid[:, :-1] & valid[:, 1:])
    if "rollout" in stage.kind.terms:
        out["rollout"] = counterfactual_rollout(rolled[:, :, 1:], future[:, :, 1:], alive[:, :, 1:])
    if "action" in stage.kind.terms:
        out["action"] = _action_term(
            model, latents.z[:, starts], valid[:, starts], actions.shape[-1], config, generator, share
        )
    seen = ahead(judged, actions, span, rolled[:, starts])
    return out | _judgement_terms(model, batch, judged, *seen, config), latents


@torch.no_grad()
def decisions(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Decisions:
    """What the policy is told, and what is wanted of it, at the decision steps that ``generator`` (CPU) draws."""
    starts = _decision_steps(stage, batch.valid.shape[1], generator).to(batch.valid.device)
    latents = encode_batch(model, batch, starts)
    sensor = batch.sensor[:, starts].repeat_interleave(batch.tokens.shape[1], 0).flatten(0, 1)
    seen = model.policy_input(latents.z[:, starts].flatten(0, 1), latents.context.flatten(0, 1), sensor)
    wanted, known = _wanted(batch, starts)
    return Decisions(seen.float(), wanted.nan_to_num().flatten(0, 1), known.flatten(0, 1))


@torch.no_grad()
def followed(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Followed:
    """What came, as encoded under each window's first instruction, from the steps on that ``generator`` (CPU) draws."""
    horizon = model.config.horizon
    starts = _decision_steps(stage, batch.valid.shape[1] - horizon, generator).to(batch.valid.device)
    when = starts[:, None] + torch.arange(horizon + 1, device=starts.device)
    z, _ = fuse_batch(model, batch)
    return Followed(
        *(x.flatten(0, 1) for x in (z[:, when].float(), batch.actions[:, when[:, :-1]], batch.valid[:, when]))
    )


def prediction_losses(rolled: Tensor, z: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """The terms of the latents ``rolled`` [R, K, D] against those that came, ``z`` [R, 1 + K, D]."""
    alive = valid.cumprod(-1).bool()[:, None]
    return {
        "state": state_prediction(rolled[:, :1], z[:, 1:2], alive[..., 1]),
        "rollout": counterfactual_rollout(rolled[:, None, 1:], z[:, None, 2:], alive[..., 2:]),
    }


@torch.no_grad()
def glimpsed(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Glimpsed:
    """The frames of the steps that ``generator`` (CPU) draws, and what is remembered before each where ``visible`` of
    the batch stands in for the gate. What the model's own gate had kept of an arm, it would learn to take for seen."""
    starts = _decision_steps(stage, batch.valid.shape[1], generator).to(batch.valid.device)
    frames = model.frames(batch.images).float()
    memory, before = frames.new_zeros(len(frames), *model.memory_shape), []
    for frame, visible in zip(frames.unbind(1), batch.visible.nan_to_num(1.0).unbind(1), strict=True):
        before.append(memory[..., :-1])
        memory = keep(frame, memory, visible.logit())
    seen = (frames, torch.stack(before, 1), batch.visible, batch.valid)
    return Glimpsed(*(x[:, starts].flatten(0, 1) for x in seen))


@torch.no_grad()
def located(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Located:
    """The maps that the model reads at the steps that ``generator`` (CPU) draws, and where the bodies were."""
    starts = _decision_steps(stage, batch.valid.shape[1], generator).to(batch.valid.device)
    features, _, _ = model.remember(batch.images)
    seen = (features.half(), model.reading(batch.sensor), batch.place, batch.elsewhere, batch.valid)
    return Located(*(x[:, starts].flatten(0, 1) for x in seen))


@torch.no_grad()
def mapped(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Mapped:
    """The maps, as remembered, at the steps that ``generator`` (CPU) draws, and what an oracle says of each."""
    starts = _decision_steps(stage, batch.valid.shape[1], generator).to(batch.valid.device)
    seen = model.encode(batch.images, batch.sensor)
    maps = (x[:, starts].flatten(0, 1) for x in (seen.features, seen.told))
    known = batch.cost.isfinite().any(-1)[:, None] & batch.valid[:, starts, None]  # [B, S, M]
    said = (batch.tokens, batch.mask, batch.referents, batch.field)
    return Mapped(*maps, *(x.repeat_interleave(len(starts), 0) for x in said), known.flatten(0, 1))


def grounding_losses(model: WorldModel, maps: Mapped, config: ObjectiveConfig) -> dict[str, Tensor]:
    """The terms of what the instructions name, and of their field, over maps of encoders at rest."""
    longest = int(maps.mask.sum(-1).max())
    mask = maps.mask.flatten(0, 1)[:, :longest]
    with torch.no_grad():  # the language encoder rests too: z_l is a part of the latents
        words, z_l = model.instruct(maps.tokens.flatten(0, 1)[:, :longest], mask)
    context = model.ground(maps.features, words, mask, z_l, maps.told)[:, None]
    known = maps.known.flatten()
    field = torch.where(known[:, None, None, None], maps.field.flatten(0, 1), torch.nan)
    referring = _referring_terms(model, context, maps.referents.flatten(0, 1), known)
    return referring | _field_terms(model, context, field, config)


@torch.no_grad()
def imagined(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Imagined:
    """What recorded actions lead to in imagination from the decision steps that ``generator`` (CPU) draws, and what
    the oracle said of what they led to."""
    of = _decided(model, batch, stage, generator)
    seen, led = _imagine(model, of)
    return Imagined(
        seen.float(), model.reader(seen, of.field).float(), of.summary, led, of.margin, of.cost, of.violation, of.valid
    )


@torch.no_grad()
def foreseen(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Foreseen:
    """The decision steps that ``generator`` (CPU) draws, what was done from each on, and what came of it."""
    rows = _decided(model, batch, stage, generator)
    return replace(rows, field=rows.field.half())


def _decided(model: WorldModel, batch: Batch, stage: StageConfig, generator: torch.Generator) -> Foreseen:
    horizon, several = model.config.horizon, batch.tokens.shape[1]
    starts = _decision_steps(stage, batch.valid.shape[1] - horizon, generator).to(batch.valid.device)
    latents = encode_batch(model, batch, starts)
    when = starts[:, None] + torch.arange(horizon + 1, device=starts.device)

    def of_windows(x: Tensor) -> Tensor:  # [B, T, ...] -> [N, S, ...]
        return x[:, when].repeat_interleave(several, 0)

    context = latents.context.flatten(0, 1).float()
    summary, field = context.split([model.summary_size, context.shape[-1] - model.summary_size], -1)
    came = (latents.z[:, when].float(), of_windows(batch.actions)[:, :, :-1])
    labels = (of_windows(batch.place), *_labels(batch, latents, horizon + 1))
    return Foreseen(*(x.flatten(0, 1) for x in came), summary, field, *(x.flatten(0, 1) for x in labels))


def _imagine(model: WorldModel, rows: Foreseen) -> tuple[Tensor, Tensor]:
    """The latents from each decision on, [R, J, D], and the actions that led to them, zeros where none did."""
    rolled = model.rollout(rows.z[:, 0], rows.actions)
    return torch.cat([rows.z[:, :1], rolled], 1), torch.nn.functional.pad(rows.actions, (0, 0, 1, 0))


def foresight_losses(model: WorldModel, rows: Foreseen, config: ObjectiveConfig) -> dict[str, Tensor]:
    """The terms of what is imagined, where in the image that is, and what is judged of it.

    The reader rests: the policy has learned from what it reads.
    """
    seen, led = _imagine(model, rows)
    v, p = model.score(seen, _at_rest(model.reader)(seen, rows.field.float()), rows.summary, led)
    known = rows.valid & rows.place[..., 0].isfinite()
    where = place(_at_rest(model.reader.locate)(seen), rows.place.nan_to_num(), known)
    judged = judgement_losses(v, p, rows.margin, rows.cost, rows.violation, rows.valid, config)
    return prediction_losses(seen[:, 1:], rows.z, rows.valid) | {"place": where} | judged


def _at_rest(module: nn.Module) -> Callable[..., Tensor]:
    """``module`` with weights that nothing moves; gradients still reach what it is given."""
    weights = {name: value.detach() for name, value in module.state_dict().items()}
    return lambda *inputs: torch.func.functional_call(module, weights, inputs)


def _decision_steps(stage: StageConfig, latest: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(latest, generator=generator)[: stage.starts].sort().values


def ahead(latents: Latents, actions: Tensor, span: int, rolled: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The latents at the decision steps and, of ``rolled`` [N, S, K, D], at ``span`` steps after each, and the actions
    that led to them, zeros where none did: [N, S, 1 + span, D] and [N, S, 1 + span, A]."""
    here = latents.z[:, latents.starts, None]
    led = torch.zeros_like(actions[:, latents.starts, None])
    if rolled is None:
        return here, led
    when = latents.starts[:, None] + torch.arange(span, device=latents.starts.device)
    return torch.cat([here, rolled], 2), torch.cat([led, actions[:, when]], 2)


def _labels(batch: Batch, latents: Latents, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Margin, cost, violation and validity [N, S, J] of the decision steps and the J - 1 steps after each."""
    when = latents.starts[:, None] + torch.arange(count, device=latents.starts.device)
    valid = batch.valid[:, None].expand(-1, batch.tokens.shape[1], -1)
    return tuple(x.flatten(0, 1)[:, when] for x in (batch.margin, batch.cost, batch.violation, valid))


def _judgement_terms(
    model: WorldModel, batch: Batch, latents: Latents, seen: Tensor, led: Tensor, config: ObjectiveConfig
) -> dict[str, Tensor]:
    """What is made of ``seen`` [N, S, J, D], the latents from the decision steps on, that the actions ``led`` to."""
    margin, cost, label, valid = _labels(batch, latents, seen.shape[2])
    judged = model.judge(seen.flatten(0, 1), latents.context.flatten(0, 1), led.flatten(0, 1))
    v, p = (x.unflatten(0, seen.shape[:2]) for x in judged)
    when = latents.starts[:, None] + torch.arange(seen.shape[2], device=seen.device)
    there = batch.place[:, when][:, None].expand(-1, batch.tokens.shape[1], -1, -1, -1).flatten(0, 1)
    where = place(model.reader.place(seen), there.nan_to_num(), valid & there[..., 0].isfinite())
    return {"place": where} | judgement_losses(v, p, margin, cost, label, valid, config)


def judgement_losses(
    v: Tensor, p: Tensor, margin: Tensor, cost: Tensor, label: Tensor, valid: Tensor, config: ObjectiveConfig
) -> dict[str, Tensor]:
    """The terms of violation ``v`` and progress ``p`` against the oracle's margin, cost and label; all [B, ...]."""
    score = _score(margin, config)
    return {
        "constraint": constraint_violation(v, valid & (label == 0)),
        "violation": violation_hinge(v, torch.where(valid, label, -1), config.violation_margin),
        "margin": margin_regression(v, score.nan_to_num(), valid & margin.isfinite(), config.prudence),
        "progress": progress(p, -cost.nan_to_num(), valid & cost.isfinite()),
    }


def _score(margin: Tensor, config: ObjectiveConfig) -> Tensor:
    """The oracle's margin on the scale of violation scores."""
    return (margin / config.margin_scale).clamp(-config.margin_limit, config.margin_limit)


def _field_terms(model: WorldModel, context: Tensor, oracle: Tensor, config: ObjectiveConfig) -> dict[str, Tensor]:
    """``context`` [N, S, C] against the ``oracle``'s cost and margin at each place, [N, 2, G, G]."""
    imagined = model.field_of(context)[:, :, :2]  # [N, S, 2, H, W]
    cost, margin = oracle.unbind(1)
    target = torch.stack([-cost.clamp(max=config.cost_limit), _score(margin, config)], 1)
    target = on_grid(target, imagined.shape[-2:])[:, None].expand_as(imagined)
    known = target.isfinite().all(-1).all(-1)
    target = target.nan_to_num()
    sought = -target[:, 0, 0]  # [N, H, W]; beyond the limit it is flat and tells of no slowness
    where = (known[:, 0, 0, None, None] & (sought < config.cost_limit))[:, None].expand_as(imagined[:, :, 0])
    found = slowness_of(-imagined[:, :, 0].flatten(0, 1)).unflatten(0, where.shape[:2])
    slowness = slowness_of(sought)[:, None].expand_as(found)
    ways = field(imagined[:, :, 0], target[:, :, 0], known[:, :, 0])
    margins = field(imagined[:, :, 1], target[:, :, 1], known[:, :, 1], config.prudence)
    return {"field": ways + margins + crossing(found, slowness, where)}


def on_grid(oracle: Tensor, shape: tuple[int, int]) -> Tensor:
    """An oracle's values [N, C, G, G] at the ``shape`` places of the model's field.

    Of several of its cells in one of the field's, the mean. Of a coarser grid the values between its cells, not copies
    of them: within copied cells a cost to go does not rise, as if nothing cost anything to cross.
    """
    coarser = any(theirs < ours for theirs, ours in zip(oracle.shape[-2:], shape, strict=True))
    return torch.nn.functional.interpolate(oracle, shape, mode="bilinear" if coarser else "area")


def _action_term(
    model: WorldModel,
    z: Tensor,
    valid: Tensor,
    size: int,
    config: ObjectiveConfig,
    generator: torch.Generator,
    share: Share,
) -> Tensor:
    """L_action on M actions drawn to differ: uniform over the whole action box."""
    shape = (len(z) * share.count, *z.shape[1:-1], config.counterfactuals, size)
    drawn = (2 * share.of(torch.rand(shape, generator=generator)) - 1).to(z.device)
    futures = model.next(z[..., None, :], drawn)
    scale = action_distance(drawn) if config.scale_by_action_distance else None
    return action_consistency(futures, valid, config.action_eps, scale)


def _reconstruction_terms(model: WorldModel, batch: Batch, latents: Latents) -> dict[str, Tensor]:
    starts = latents.starts
    image, sensor = model.reconstruct(latents.z_v[:, starts], latents.z_s[:, starts])
    pixels = batch.images[0][:, starts].flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    small = torch.nn.functional.avg_pool2d(pixels, CELL).unflatten(0, image.shape[:2])
    # What is hidden is not to be painted: the map remembers, or does not know, what lies behind it.
    seen = batch.visible[:, starts, : small[0, 0, 0].numel()].nan_to_num(1.0)
    seen = seen.reshape(*small.shape[:2], 1, *small.shape[-2:])
    valid = batch.valid[:, starts]
    wanted = model.sensor.normalise(batch.sensor[:, starts])
    return {"reconstruction": reconstruction(image * seen, small * seen, valid) + reconstruction(sensor, wanted, valid)}


def _named(batch: Batch) -> tuple[Tensor, Tensor]:
    """What each instruction names [N, R, 4], and whether an oracle judged it [N]."""
    return batch.referents.flatten(0, 1), batch.cost.flatten(0, 1).isfinite().any(-1)


def _referring_terms(model: WorldModel, context: Tensor, named: Tensor, known: Tensor) -> dict[str, Tensor]:
    pointed = model.refer(context)  # [N, S, R, 4]
    named = named[:, None].expand_as(pointed)
    known = known[:, None, None].expand(pointed.shape[:-1])
    place, there = pointed[..., :3], named[..., 3] > 0.5
    return {"referring": referring(place, named[..., :3], known & there) + presence(pointed[..., 3], there, known)}


def _seeing_terms(model: WorldModel, batch: Batch, latents: Latents) -> dict[str, Tensor]:
    """What is hidden, and where the bodies are."""
    out = {"visibility": visibility(latents.visible, batch.visible, batch.valid)}
    if latents.keypoints is not None:
        out["keypoints"] = keypoint_loss(model, latents.keypoints, latents.told, batch)
    return out


def keypoint_loss(model: WorldModel, heat: Tensor, told: Tensor, of: Batch | Located) -> Tensor:
    """Of the heat maps ``heat`` [B, T, cameras · bodies, H, W] and of the places that are ``told`` [B, T, size] of
    them; of rows of single steps, T = 1."""
    shape = told.shape[:2]
    there, elsewhere, valid = of.place.view(*shape, -1), of.elsewhere.view(*shape, -1, 2), of.valid.view(shape)
    everywhere = torch.cat([there.unflatten(-1, (-1, 2)), elsewhere], 2)
    cells = keypoints(heat, everywhere, everywhere[..., 0].isfinite() & valid[..., None])
    return cells + place(model.keypoints.places(told), there, there.isfinite().all(-1) & valid, SHARP)


def _proposal_terms(model: WorldModel, batch: Batch, latents: Latents) -> dict[str, Tensor]:
    here = latents.z[:, latents.starts]
    sensor = batch.sensor[:, latents.starts].repeat_interleave(batch.tokens.shape[1], 0)
    proposed = model.propose(here.flatten(0, 1), latents.context.flatten(0, 1), sensor.flatten(0, 1))
    return {"proposal": proposal(proposed.unflatten(0, here.shape[:2]), *_wanted(batch, latents.starts))}


def _wanted(batch: Batch, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Actions [N, S, K, A] to propose at the decision steps, and which of them are known [N, S, K]."""
    several = batch.tokens.shape[1]
    plan = batch.plan[:, starts][:, None].expand(-1, several, -1, -1, -1).flatten(0, 1)
    valid = batch.plan_valid[:, starts][:, None].expand(-1, several, -1, -1).flatten(0, 1)
    valid = valid & batch.expert.flatten()[:, None, None]
    advice = batch.advice.flatten(0, 1)[:, starts]  # [N, S, A]
    advised = advice.isfinite().all(-1) & batch.valid[:, starts].repeat_interleave(several, 0)
    # What an expert would do now; of what it would do then, only its own recordings tell.
    first = torch.where(advised[..., None], advice, plan[:, :, 0])
    plan = torch.cat([first[:, :, None], plan[:, :, 1:]], 2)
    return plan, torch.cat([(valid[..., 0] | advised)[..., None], valid[..., 1:]], -1)
