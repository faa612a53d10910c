"""What held-out windows say of the model, with the instructions right and with them shuffled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from torch import Tensor

from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.batch import Batch
from tc_mmwm_core.training.objective import Latents, ahead, encode_batch


@torch.no_grad()
def encode_held_out(model: WorldModel, batches: Iterable[Batch]) -> Iterator[tuple[Latents, Latents]]:
    """What :func:`validate` judges of each of ``batches``: with the instructions right, and shuffled."""
    for batch in batches:
        was_training = model.training
        model.eval()
        right, wrong = (encode_batch(model, each, _starts(model, each)) for each in (batch, _shuffled(batch)))
        model.train(was_training)
        yield right, wrong


@torch.no_grad()
def validate(
    model: WorldModel, batches: Sequence[Batch], encoded: Iterable[tuple[Latents, Latents]] | None = None
) -> dict[str, float]:
    """Measures over ``batches``; ``encoded``: what :func:`encode_held_out` made of them, where that is known.

    ``progress_correlation``: Pearson, at the decision steps and up to K steps imagined from them;
    ``progress_correlation_shuffled``: the same with each window under another's instructions. If it is near the first,
    the words are not heard. ``violation_auroc``; ``violation_accuracy`` at v = 0; ``referring_error``: mean distance of
    what is pointed at, in half image sides; ``place_error``: of the bodies, too; ``prediction_ratio``: error of the
    predictions 1 to K steps ahead, summed, over that of copying the latent.
    """
    right, wrong = [], []
    was_training = model.training
    model.eval()
    for batch, (heard, shuffled) in zip(batches, encoded or encode_held_out(model, batches), strict=True):
        right.append(_judge(model, batch, heard))
        wrong.append(_judge(model, _shuffled(batch), shuffled))
    model.train(was_training)

    def joined(rows: list[dict[str, Tensor]], name: str) -> Tensor:
        return torch.cat([row[name] for row in rows])

    known = joined(right, "known")
    labelled = joined(right, "label") >= 0
    v, label = joined(right, "v")[labelled], joined(right, "label")[labelled]
    measures = {
        "violation_auroc": area_under_curve(v.cpu(), (label == 1).cpu()),
        "violation_accuracy": ((v > 0) == (label == 1)).float().mean().item(),
        "referring_error": joined(right, "pointing").mean().item(),
        "place_error": joined(right, "placing").nanmean().item(),
        "prediction_ratio": (joined(right, "error").sum() / joined(right, "copy").sum().clamp(min=1e-9)).item(),
    }
    if known.any():
        target = joined(right, "target")[known]
        measures["progress_correlation"] = correlation(joined(right, "p")[known], target)
        measures["progress_correlation_shuffled"] = correlation(joined(wrong, "p")[known], target)
        measures["progress_error"] = (joined(right, "p")[known] - target).abs().mean().item()
    return measures


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two vectors."""
    return torch.corrcoef(torch.stack([x, y]))[0, 1].item()


def area_under_curve(score: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative (Mann-Whitney); NaN without both."""
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)[positive]
    return float((ranks.sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _shuffled(batch: Batch) -> Batch:
    return dataclasses.replace(batch, tokens=batch.tokens.roll(1, 0), mask=batch.mask.roll(1, 0))


def _depth(model: WorldModel, batch: Batch) -> int:
    """K, or as many steps as windows have after their first."""
    return min(model.config.horizon, batch.valid.shape[1] - 1)


def _starts(model: WorldModel, batch: Batch) -> Tensor:
    """The decision steps: one after the other's imagined steps."""
    steps, depth = batch.valid.shape[1], _depth(model, batch)
    return torch.arange(0, max(1, steps - depth), max(1, depth), device=batch.valid.device)


def _judge(model: WorldModel, batch: Batch, latents: Latents) -> dict[str, Tensor]:
    depth, starts = _depth(model, batch), latents.starts
    several = batch.tokens.shape[1]
    actions = batch.actions[:, None].expand(-1, several, -1, -1).flatten(0, 1)
    when = starts[:, None] + torch.arange(depth + 1, device=starts.device)
    rolled = model.rollout(latents.z[:, starts], actions[:, when[:, :-1]]) if depth else None
    seen, led = ahead(latents, actions, depth, rolled)
    truth = latents.z[:, when]
    cost = batch.cost.flatten(0, 1)[:, when]
    v, p = model.judge(seen.flatten(0, 1), latents.context.flatten(0, 1), led.flatten(0, 1))
    pointed, named = model.refer(latents.context), batch.referents.flatten(0, 1)[:, None]
    there = (named[..., 3] > 0.5).expand(pointed.shape[:-1])
    distance = (pointed[..., :2] - named[..., :2]).norm(dim=-1)
    place = batch.place[:, when].repeat_interleave(several, 0)
    placing = (model.reader.place(seen) - place).unflatten(-1, (-1, 2)).norm(dim=-1)
    return {
        "v": v.flatten(),
        "label": batch.violation.flatten(0, 1)[:, when].flatten(),
        "p": p.flatten(),
        "target": -cost.flatten(),
        "known": cost.isfinite().flatten(),
        "pointing": distance[there],
        "placing": placing.flatten(),
        "error": (seen - truth)[:, :, 1:].square().sum(-1).flatten(),
        "copy": (seen[:, :, :1] - truth)[:, :, 1:].square().sum(-1).flatten(),
    }
