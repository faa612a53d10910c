"""A tiny world model, and batches of noise in the shapes of real ones."""

from __future__ import annotations

import torch

from tc_mmwm_core.models.world_model import ModelConfig, WorldModel
from tc_mmwm_core.training.batch import Batch

IMAGE, SENSORS, ACTIONS, VOCABULARY = (16, 24), 5, 2, 60
TINY = ModelConfig(
    latent=16,
    width=16,
    hidden=32,
    slots=3,
    slot_width=4,
    field_channels=3,
    word_dimensions=16,
    max_tokens=9,
    horizon=3,
    frame_skip=2,
)


def tiny_model(cameras: int = 1, seed: int = 0, **switches: object) -> WorldModel:
    """An untrained model; what is initialised to zero is moved off it, so that nothing is hidden behind a zero."""
    torch.manual_seed(seed)
    words = torch.randn(VOCABULARY, TINY.word_dimensions)
    model = WorldModel(TINY.model_copy(update=switches), cameras, IMAGE, SENSORS, ACTIONS, words)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.constraint_function.score[-1].weight.mul_(20)  # scores far apart
    return model


def noise_batch(
    windows: int = 3, steps: int = 6, several: int = 2, cameras: int = 1, seed: int = 1, bodies: int = 1
) -> Batch:
    """Noise everywhere; about a quarter of what may be unknown is, and the last window has an invalid step."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def sometimes_unknown(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        known = known.reshape(*known.shape, *(1,) * (values.dim() - known.dim()))
        return torch.where(known, values, torch.nan)

    instructions = (windows, several)
    length = integers(3, TINY.max_tokens + 1, *instructions, 1)
    mask = torch.arange(TINY.max_tokens) < length
    valid = torch.ones(windows, steps, dtype=torch.bool)
    valid[-1, steps // 2] = False
    judged = torch.rand(instructions, generator=generator) < 0.75
    judged[0, 0] = True
    margin = sometimes_unknown(normal(*instructions, steps) * 0.2, judged)
    referents, elsewhere = normal(*instructions, 3, 4) * 0.3, (windows, steps, cameras - 1, bodies)
    referents[..., 3] = integers(0, 2, *instructions, 3)
    cells = (windows, steps, cameras * IMAGE[0] * IMAGE[1] // 16)
    return Batch(
        images=[integers(0, 256, windows, steps, *IMAGE, 3).to(torch.uint8) for _ in range(cameras)],
        visible=sometimes_unknown(normal(*cells).add(1).clamp(0, 1), integers(0, 2, *cells) > 0),
        sensor=normal(windows, steps, SENSORS),
        actions=normal(windows, steps, ACTIONS).tanh(),
        plan=normal(windows, steps, TINY.horizon, ACTIONS).tanh(),
        plan_valid=(torch.arange(steps)[:, None] + torch.arange(TINY.horizon) < steps).repeat(windows, 1, 1),
        valid=valid,
        tokens=integers(0, VOCABULARY, *instructions, TINY.max_tokens) * mask,
        mask=mask,
        margin=margin,
        cost=sometimes_unknown(normal(*instructions, steps).abs(), judged),
        violation=torch.where(margin.isnan(), integers(-1, 2, *instructions, steps), (margin > 0).long()),
        referents=referents,
        place=sometimes_unknown(normal(windows, steps, 2 * bodies) * 0.4, judged[:, 0]),
        elsewhere=sometimes_unknown(normal(*elsewhere, 2) * 0.4, integers(0, 2, *elsewhere) > 0),
        field=sometimes_unknown(normal(*instructions, 2, 8, 8).abs(), judged),
        expert=integers(0, 2, *instructions).bool(),
        advice=sometimes_unknown(
            normal(*instructions, steps, ACTIONS).tanh(), integers(0, 2, *instructions, steps) > 0
        ),
    )
