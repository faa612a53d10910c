"""Cosine decay with warm-up, per optimizer step (training procedure, section 9; Loshchilov & Hutter, SGDR, 2017)."""

from __future__ import annotations

from functools import partial
from math import cos, pi

import torch
from torch.optim.lr_scheduler import LambdaLR


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at optimizer step ``step`` = 0, 1, ... of ``total_steps``.

    Rises as (step + 1) / warmup_steps, so that the first step moves too; then falls by half a cosine to 0 at
    ``total_steps``, and stays there.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + cos(pi * done))


def build_scheduler(optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """The schedule on ``optimizer``, the first ``warmup_steps`` rising to its learning rate.

    Call ``step()`` once after each optimizer step.

    The factor is computed from the step number alone, never from the factor before it, so that a resumed run has the
    very learning rates of an unbroken one once its ``state_dict`` and the optimizer's are loaded.

    Raises:
        ValueError: warm-up would take the whole run.
    """
    if warmup_steps >= total_steps:
        raise ValueError(
            f"schedule: warmup_steps is {warmup_steps}, less than the {total_steps} optimizer steps are needed"
        )
    return LambdaLR(optimizer, partial(learning_rate_factor, total_steps=total_steps, warmup_steps=warmup_steps))
