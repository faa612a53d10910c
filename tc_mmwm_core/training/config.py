"""Every hyperparameter of training, as config/train/*.yaml holds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tc_mmwm_core.config import Config
from tc_mmwm_core.losses.total_loss import LossWeights
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.training.early_stopping import EarlyStoppingConfig
from tc_mmwm_core.training.kinds import KINDS, Kind
from tc_mmwm_core.training.optimizer import OptimizerConfig

LossName = Literal[tuple(LossWeights.model_fields)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DataConfig(Config):
    """What is trained on."""

    domain: str | None = Field(None, description="domain whose oracle relabels simulated trajectories, e.g. navigation")
    instructions: int = Field(8, ge=1, description="instructions that each simulated trajectory is judged under")
    simulated_weight: float = Field(1.0, ge=0, description="share of windows from simulated trajectories, relative")
    real_weight: float = Field(1.0, ge=0, description="share of windows from real trajectories, relative")
    holdout: float = Field(0.1, gt=0, lt=1, description="share of trajectories kept for validation and calibration")
    erase: float = Field(
        0.0, ge=0, le=1, description="share of windows in which a part of each image is hidden; 0 unlearns the memory"
    )


class StageConfig(Config):
    """One stage of the curriculum (method, section 11)."""

    name: Literal[tuple(KINDS)]
    epochs: float = Field(gt=0, description="passes over the trajectories: a window of each in one epoch")
    trajectories: int = Field(32, ge=1, description="windows a batch")
    min_length: int = Field(10, ge=1, description="shortest window, latent steps")
    max_length: int = Field(30, ge=1, description="longest window, latent steps")
    from_start: bool = Field(
        False,
        description="windows begin where a trajectory does: what is remembered in them is what it is when driving",
    )
    instructions: int = Field(2, ge=1, description="instructions that each window of a batch is seen under")
    starts: int = Field(4, ge=1, description="decisions a window: steps where the scene is grounded and imagined from")
    passes: int = Field(
        1, ge=1, description="stages on encoders at rest: how often what was encoded once is learned from"
    )
    learning_rate: float | None = Field(None, gt=0, description="overrides the optimizer's for this stage")
    weights: dict[LossName, NonNegative] = Field({}, description="λ that this stage has in place of the run's")

    @model_validator(mode="after")
    def _lengths(self) -> StageConfig:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if self.kind.predicts and self.min_length < 2:
            raise ValueError(f"stage {self.name} predicts the next latent: min_length must be at least 2")
        if self.passes > 1 and not self.kind.encoders_rest:
            resting = ", ".join(name for name, kind in KINDS.items() if kind.encoders_rest)
            raise ValueError(
                f"stage {self.name} has passes {self.passes}: only stages {resting} go over what they encoded"
            )
        return self

    @property
    def kind(self) -> Kind:
        """What tells it from stages of other names."""
        return KINDS[self.name]

    def window(self, frame_skip: int) -> tuple[int, int]:
        """Control steps of the shortest window and of the longest: they may end within their last latent step."""
        return (self.min_length - 1) * frame_skip + 1, self.max_length * frame_skip

    def needs(self, model: ModelConfig) -> tuple[str, ...]:
        """The terms of which this stage cannot do without one at least; empty if any term will do."""
        # Progress that is read off the field alone has no weights to train.
        return tuple(term for term in self.kind.needs if term != "progress" or model.progress == "latent")

    def lacks(self, model: ModelConfig) -> str | None:
        """The switch of ``model`` that is off and leaves this stage nothing to train; None if there is none."""
        switch = self.kind.switch
        return switch if switch and not getattr(model, switch) else None

    def loss_weights(self, weights: LossWeights) -> LossWeights:
        """``weights`` of the run with this stage's own in their place."""
        return weights.model_copy(update=self.weights)


class ObjectiveConfig(Config):
    """Constants of the losses."""

    min_rollout: int = Field(3, ge=2, description="least rollout depth K")
    max_rollout: int = Field(5, ge=2, description="largest rollout depth K")
    counterfactuals: int = Field(4, ge=2, description="M, alternative actions at the same latent")
    action_eps: float = Field(1.0, gt=0, description="ε of L_action, in units of latent distance")
    scale_by_action_distance: bool = Field(True, description="weigh L_action's pairs by how much the actions differ")
    violation_margin: float = Field(0.2, ge=0, description="m of the mirrored hinge")
    margin_scale: float = Field(0.1, gt=0, description="oracle margin, in the domain's unit, that is one unit of v")
    prudence: float = Field(
        1.0, ge=1, description="how many times as bad a margin predicted too low is as one too high"
    )
    margin_limit: float = Field(3.0, gt=0, description="|v| beyond which the margin regression does not push")
    cost_limit: float = Field(6.0, gt=0, description="cost in the field beyond which it is all the same")
    projections: int = Field(256, ge=8, description="random directions of SIGReg")
    stop_gradient: bool = Field(False, description="L_state and L_rollout do not move their targets")

    @model_validator(mode="after")
    def _depths(self) -> ObjectiveConfig:
        if self.min_rollout > self.max_rollout:
            raise ValueError(f"min_rollout {self.min_rollout} is above max_rollout {self.max_rollout}")
        return self


class TrainConfig(Config):
    """Everything that determines a training run beside the data itself."""

    seed: int = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    warmup_steps: int = Field(200, ge=0, description="linear warm-up at the start of each stage")
    weights: LossWeights = LossWeights()
    objective: ObjectiveConfig = ObjectiveConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    ema_decay: float = Field(0.998, ge=0, lt=1, description="EMA of the weights; the average is what is exported")
    accumulation: int = Field(
        1, ge=1, description="parts that each batch is computed in, to save memory; SIGReg is then the mean over them"
    )
    early_stopping: EarlyStoppingConfig = Field(
        EarlyStoppingConfig(),
        description="with a patience, a stage's best weights are kept (best.pt): the next one and an export have them",
    )
    bf16: bool = Field(False, description="autocast the forward pass to bfloat16")
    compile: bool = Field(False, description="torch.compile the model's parts")
    checkpoint_seconds: float = Field(60.0, gt=0, description="a checkpoint at least this often")
    validate_every: int = Field(250, ge=1, description="steps between validations")

    @model_validator(mode="after")
    def _something_to_learn(self) -> TrainConfig:
        for stage in self.stages:
            if stage.kind.imagines and stage.min_length <= self.model.horizon:
                raise ValueError(
                    f"stage {stage.name}: min_length {stage.min_length} must be above model.horizon "
                    f"{self.model.horizon}, so that what is imagined can be held against what came"
                )
            if lacking := stage.lacks(self.model):
                raise ValueError(
                    f"stage {stage.name}: the model has no use for it (model.{lacking}: false); leave the stage out"
                )
            weights, needs = stage.loss_weights(self.weights), stage.needs(self.model)
            if needs and not any(getattr(weights, term) for term in needs):
                raise ValueError(
                    f"stage {stage.name} learns nothing without the term {' or '.join(needs)}, "
                    "whose weight is 0: leave it out"
                )
        return self
