"""The kinds of stage that a curriculum is made of: what each computes, reads, needs and leaves at rest, in one table.

What trains them is elsewhere: the whole model in :mod:`tc_mmwm_core.training.objective`, one part of it on what
encoders at rest made of windows in :mod:`tc_mmwm_core.training.latent_stage`.
"""

from __future__ import annotations

from dataclasses import dataclass

JUDGEMENT = ("constraint", "violation", "margin", "progress")  # terms of what is judged
SEEN = ("referring", "visibility", "keypoints")  # of what is named, what is hidden, and where the bodies are
WHOLE = (*SEEN, *JUDGEMENT, "sigreg_visual", "sigreg_fused", "reconstruction", "field", "place", "proposal")

DRAWN = ("min_rollout", "max_rollout")  # constants that the steps of a window are drawn by
JUDGED = ("violation_margin", "margin_scale", "margin_limit", "prudence")  # that the judgement's terms read
MAPPED = ("margin_scale", "margin_limit", "prudence", "cost_limit")  # that the field's terms read
OF_WHOLE = (*DRAWN, *JUDGED, *MAPPED, "projections")

# What does not move while a stage learns: beside the encoders, z_v and z, where it does not train the map that they are
# read off or what keypoints add to them; and what is grounded, where it does not train the grounding.
ENCODERS = ("encoders",)
FRAMES = (*ENCODERS, "frames")  # z and z_v of every frame, too
LATENTS = (*FRAMES, "latents")  # all that is grounded, too


@dataclass(frozen=True)
class Kind:
    """What tells one kind of stage from the others.

    Attributes:
        terms: of L_total that it computes; all others are 0 in it.
        constants: of the objective that these terms, or what is drawn for them, read.
        needs: terms of which one at least must have a weight; none: any term will do.
        switch: of the model, without which its part is not there or is read by nothing; none: it always is.
        rests: what does not move in it.
        predicts: it trains the whole model, dynamics included, on windows of several steps.
        imagines: it holds what K imagined steps lead to against what came.
    """

    terms: tuple[str, ...]
    constants: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    switch: str | None = None
    rests: tuple[str, ...] = ()
    predicts: bool = False
    imagines: bool = False

    @property
    def encoders_rest(self) -> bool:
        """Whether it trains one part, or two, on what the encoders made of windows once."""
        return "encoders" in self.rests


KINDS = {
    # where is what the instruction names? On single frames: what takes the most steps to learn takes them cheaply
    "grounding": Kind(SEEN, DRAWN, needs=("referring",)),
    # the method's three (section 11): encoders on single frames, windows without and with the counterfactual terms
    "reconstruction": Kind(WHOLE, OF_WHOLE),
    "world_model": Kind((*WHOLE, "state"), (*OF_WHOLE, "stop_gradient"), predicts=True),
    "full": Kind(
        (*WHOLE, "state", "rollout", "action"),
        (*OF_WHOLE, "stop_gradient", "counterfactuals", "action_eps", "scale_by_action_distance"),
        predicts=True,
    ),
    # the gate of the view's memory, on maps of frames
    "memory": Kind(("visibility",), needs=("visibility",), switch="use_memory", rests=ENCODERS),
    # the heat maps of the bodies, on maps of single steps
    "keypoints": Kind(("keypoints",), needs=("keypoints",), switch="keypoints", rests=ENCODERS),
    # g, on latents
    "dynamics": Kind(("state", "rollout"), needs=("state", "rollout"), rests=LATENTS, imagines=True),
    # grounding and the instruction's field, on maps of single steps
    "field": Kind(("referring", "field"), MAPPED, needs=("field",), rests=FRAMES),
    # constraint function and progress, on what encoders and g make of recorded actions
    "judge": Kind(JUDGEMENT, JUDGED, needs=("margin", "progress"), rests=LATENTS, imagines=True),
    # g with constraint function and progress, by what is judged of what it imagines, too
    "foresight": Kind(
        ("state", "rollout", "place", *JUDGEMENT), JUDGED, needs=("margin", "progress"), rests=LATENTS, imagines=True
    ),
    # the policy, on what the encoders tell of each decision
    "policy": Kind(("proposal",), needs=("proposal",), rests=LATENTS),
}
