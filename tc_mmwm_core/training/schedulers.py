"""Cosine decay with warm-up, per optimizer step (training procedure, section 9; Loshchilov & Hutter, SGDR, 2017)."""

from __future__ import annotations

from functools import partial
from math import cos, pi

import torch
from pydantic import Field
from torch.optim.lr_scheduler import LambdaLR

from tc_mmwm_core.config import Config


class ScheduleConfig(Config):
    """How the learning rate rises and falls over a stage of training."""

    warmup_steps: int = Field(500, ge=0, description="optimizer steps of linear rise to the peak")
    final_fraction: float = Field(0.0, ge=0, le=1, description="share of the peak that is left at the end")


def learning_rate_factor(step: int, total_steps: int, config: ScheduleConfig) -> float:
    """Share of the peak learning rate at optimizer step ``step`` = 0, 1, ... of ``total_steps``.

    Rises as (step + 1) / warmup_steps, so that the first step moves too; then falls by half a cosine to
    ``final_fraction`` at ``total_steps``, and stays there.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + cos(pi * done))


def build_scheduler(optimizer: torch.optim.Optimizer, total_steps: int, config: ScheduleConfig) -> LambdaLR:
    """The schedule on ``optimizer``; call ``step()`` once after each optimizer step.

    The factor is computed from the step number alone, never from the factor before it, so that a resumed run has the
    very learning rates of an unbroken one once its ``state_dict`` and the optimizer's are loaded.

    Raises:
        ValueError: warm-up would take the whole run.
    """
    if config.warmup_steps >= total_steps:
        raise ValueError(
            f"schedule: warmup_steps is {config.warmup_steps}, less than the {total_steps} optimizer steps are needed"
        )
    return LambdaLR(optimizer, partial(learning_rate_factor, total_steps=total_steps, config=config))
