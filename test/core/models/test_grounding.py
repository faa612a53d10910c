"""Several instructions on one map, in one attention, are what they are one by one."""

import torch

from tc_mmwm_core.models.grounding import Grounding


def test_the_instructions_of_a_map_are_what_they_are_one_by_one():
    torch.manual_seed(0)
    grounding = Grounding(16, slots=4, slot_width=5)
    features, words = torch.randn(2, 12, 16), torch.randn(6, 7, 32)
    mask = torch.arange(7) < torch.tensor([7, 3, 5, 1, 6, 2])[:, None]
    slots, u = grounding(features, words, mask)
    assert slots.shape == (6, 4, 16) and u.shape == (6, 20)
    for n in range(6):
        alone, summary = grounding(features[n // 3][None], words[n][None], mask[n][None])
        torch.testing.assert_close((slots[n], u[n]), (alone[0], summary[0]), atol=1e-5, rtol=1e-4)


def test_it_hears_the_words_and_sees_the_map():
    torch.manual_seed(0)
    grounding = Grounding(16)
    features, words, mask = torch.randn(1, 12, 16), torch.randn(1, 7, 32), torch.ones(1, 7, dtype=torch.bool)
    _, u = grounding(features, words, mask)
    assert not torch.allclose(u, grounding(features, words.flip(1) * 2, mask)[1])
    assert not torch.allclose(u, grounding(features + torch.randn_like(features), words, mask)[1])


def test_it_points_from_its_first_slots():
    grounding = Grounding(16, slots=5, slot_width=4)
    u = torch.randn(2, 6, 20)
    pointed = grounding.refer(u)
    assert pointed.shape == (2, 6, 3, 4)
    u[..., 12:] = 0  # the slots beyond
    torch.testing.assert_close(grounding.refer(u), pointed)
