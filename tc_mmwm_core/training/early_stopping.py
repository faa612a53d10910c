"""Stop when the validation loss has not improved for a while (Prechelt, "Early stopping - but when?", 1998)."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from pydantic import Field

from tc_mmwm_core.config import Config


class EarlyStoppingConfig(Config):
    """When a stage of training ends before its last epoch.

    With a patience the held-out trajectories choose the weights, so they count as trained on: a threshold is calibrated
    on others.
    """

    patience: int | None = Field(
        None, ge=1, description="validations without improvement to wait for; null: never stop"
    )
    least_improvement: float = Field(0.0, ge=0, description="fall of the validation loss that counts as improvement")


class EarlyStopping:
    """Follows a validation loss; part of the checkpoint, so that a resumed run stops where the unbroken one does."""

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self.best = inf
        self.waited = 0

    def update(self, loss: float) -> bool:
        """Take the newest validation loss; True where it is the best so far. One that is not finite never is."""
        improved = isfinite(loss) and loss < self.best - self.config.least_improvement
        self.best, self.waited = (loss, 0) if improved else (self.best, self.waited + 1)
        return improved

    @property
    def stop(self) -> bool:
        """Whether patience has run out."""
        return self.config.patience is not None and self.waited >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
