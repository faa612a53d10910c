"""The stages of training: each can be skipped, resumed and repeated.

The method's (section 11):

1. ``reconstruction``: encoders on single frames; observations decoded from the latents, words bound to pixels.
2. ``world_model``: dynamics and heads on windows, without counterfactual terms.
3. ``full``: with L_action and L_rollout.

Before them ``grounding``: where is what the instruction names? On single frames, and nothing else: what takes the most
steps to learn takes them at a third of the time. Beside and after them one part alone, on what encoders at rest made of
windows (:mod:`tc_mmwm_core.training.latent_stage`). :mod:`tc_mmwm_core.training.kinds` lists all kinds of stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.training.config import StageConfig


def stage_steps(stage: StageConfig, trajectories: int) -> int:
    """Optimizer steps of a stage: an epoch is one window of each trajectory."""
    return stage.passes * max(1, math.ceil(stage.epochs * trajectories / stage.trajectories))


def stage_warmup(steps: int, warmup_steps: int) -> int:
    """Steps of the warm-up in a stage of ``steps``: at most a quarter."""
    return min(warmup_steps, steps // 4)


def shortened(stage: StageConfig, steps: int, trajectories: int) -> StageConfig:
    """The stage with at most ``steps`` optimizer steps on so many trajectories."""
    if stage_steps(stage, trajectories) <= steps:
        return stage
    # Half a batch less: an epoch's share must not be rounded up to one step more.
    return stage.model_copy(update={"epochs": (steps - 0.5) * stage.trajectories / trajectories, "passes": 1})


def select_stages(stages: Sequence[StageConfig], names: Sequence[str] | None) -> tuple[StageConfig, ...]:
    """The stages called ``names``, in the order given (a name may come twice); all of them where it is None.

    Where the config has several stages of one name, the name stands for all of them.

    Raises:
        ConfigError: no stage of that name.
    """
    if names is None:
        return tuple(stages)
    known = {stage.name: [each for each in stages if each.name == stage.name] for stage in stages}
    if missing := [name for name in names if name not in known]:
        raise ConfigError(f"stage {', '.join(missing)}: the config has {', '.join(known)}")
    return tuple(stage for name in names for stage in known[name])
