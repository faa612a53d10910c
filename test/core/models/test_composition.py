"""z = α_v z_v + α_l z_l + α_s z_s with bounded, normalised α."""

import pytest
import torch

from tc_mmwm_core.models.composition import FLOOR, CausalComposition

D = 6


def latents(scale=1.0):
    return [scale * torch.randn(4, 3, D) for _ in range(3)]


def trained(kind):
    """Weights far from their start: α must be bounded wherever learning leads."""
    torch.manual_seed(0)
    composition = CausalComposition(D, kind)
    with torch.no_grad():
        for parameter in composition.parameters():
            parameter.add_(3 * torch.randn_like(parameter))
    return composition


@pytest.mark.parametrize("kind", ["contextual", "global", "concatenation"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_weights_are_bounded_and_sum_to_one(kind, scale):
    z, alpha = trained(kind)(*latents(scale))
    assert z.shape == (4, 3, D) and alpha.shape == (4, 3, 3)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(4, 3))
    assert alpha.min() >= FLOOR - 1e-6 and alpha.max() <= 1 - 2 * FLOOR + 1e-6


@pytest.mark.parametrize("kind", ["contextual", "global"])
def test_z_is_the_weighted_sum(kind):
    z_v, z_l, z_s = latents()
    z, alpha = trained(kind)(z_v, z_l, z_s)
    for i in range(4):
        for t in range(3):
            a = alpha[i, t]
            torch.testing.assert_close(z[i, t], a[0] * z_v[i, t] + a[1] * z_l[i, t] + a[2] * z_s[i, t])


def test_contextual_weights_follow_the_latents_global_ones_do_not():
    for kind in ("contextual", "global"):
        _, alpha = trained(kind)(*latents())
        assert torch.equal(alpha, alpha[:1, :1].expand_as(alpha)) == (kind == "global")


def test_all_modalities_start_equal():
    for kind in ("contextual", "global"):
        _, alpha = CausalComposition(D, kind)(*latents())
        torch.testing.assert_close(alpha, torch.full_like(alpha, 1 / 3))
