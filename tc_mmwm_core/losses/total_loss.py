"""L_total: the weighted sum of all terms (training procedure, section 8), with each term's raw and weighted value."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from tc_mmwm_core.config import Config


def _weight(default: float, description: str) -> float:
    return Field(default, ge=0.0, allow_inf_nan=False, description=description)


class LossWeights(Config):
    """λ of each term; a term's name here is its name everywhere. 0 switches a term off, and it is still logged."""

    state: float = _weight(1.0, "L_state: one-step prediction of the next latent")
    action: float = _weight(0.5, "L_action: different actions lead to different futures")
    constraint: float = _weight(1.0, "L_constraint: steps that comply must not score as violations")
    rollout: float = _weight(0.3, "L_rollout: k-step prediction, k from 2 to K")

    violation: float = _weight(1.0, "mirrored hinge: steps labelled violating score above the margin")
    margin: float = _weight(1.0, "regression of the oracle's margin, where a simulator knows it")
    # LeWM's 0.09. What ships sets 0.1 and 0.2; these stay, since digests of settings leave out what has its default.
    sigreg_visual: float = _weight(0.09, "SIGReg on the visual latent z_v: against collapse")
    sigreg_fused: float = _weight(0.09, "SIGReg on the composed latent z: against collapse")
    progress: float = _weight(1.0, "how near the instruction is to done: ranks the accepted candidates")
    referring: float = _weight(1.0, "where is what the instruction names: binds words to pixels")
    field: float = _weight(1.0, "the instruction's field at every place in view, where a simulator knows it")
    place: float = _weight(1.0, "where in the image a latent says that the robot is, where a simulator knows it")
    keypoints: float = _weight(1.0, "which cell of the map each body is in, where a simulator knows it")
    visibility: float = _weight(1.0, "which places are hidden: when the memory of the view keeps what it has")
    reconstruction: float = _weight(1.0, "observations decoded from the latent: encoder pretraining")
    proposal: float = _weight(1.0, "recorded actions of successful trajectories imitated by the proposal head")


def total_loss(
    terms: Mapping[str, Tensor], weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """L_total = Σ λ_name · terms[name].

    Args:
        terms: scalars by name; a term that a stage does not compute is left out.
        weights: λ by the same names.

    Returns:
        The total to differentiate; the raw terms; the weighted terms. The last two are detached, on the device: reading
        them is what waits for it.

    Raises:
        ValueError: a term has no weight of its own, is not a scalar, or there are none.
    """
    known = type(weights).model_fields
    if not terms:
        raise ValueError(f"no loss term was given; known terms: {', '.join(known)}")
    for name, value in terms.items():
        if name not in known:
            raise ValueError(f"loss term '{name}' has no weight; known terms: {', '.join(known)}")
        if value.dim() != 0:
            raise ValueError(f"loss term '{name}' has shape {list(value.shape)}, a scalar is needed")
    # A term switched off is not multiplied by 0: that would turn its inf or NaN into everyone's.
    weighted = {name: getattr(weights, name) * value for name, value in terms.items() if getattr(weights, name) > 0}
    total = sum(weighted.values(), start=next(iter(terms.values())).new_zeros(()))
    return (
        total,
        {name: value.detach() for name, value in terms.items()},
        {name: value.detach() for name, value in weighted.items()},
    )
