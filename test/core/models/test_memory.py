"""The memory of the view: what it is at first, what it keeps, and that windows and steps give the same."""

import pytest
import torch

from tc_mmwm_core.models.memory import LEAST, MapMemory

B, T, P, E = 2, 5, 6, 8


@pytest.fixture
def memory():
    torch.manual_seed(0)
    return MapMemory(E)


def blind(memory: MapMemory, feature: int) -> MapMemory:
    """A memory that takes a cell for hidden where its ``feature`` is 1, and for seen where it is 0."""
    for parameter in memory.parameters():
        torch.nn.init.zeros_(parameter)
    first, _, last = memory.seen
    first.weight.data[0, feature] = first.bias.data[1] = 10.0
    last.weight.data[0, :2] = torch.tensor([-4.0, 2.0])
    return memory


def test_the_first_frame_is_taken_as_it_is(memory):
    features = torch.randn(B, 1, P, E)
    maps, after, _ = memory(features)
    torch.testing.assert_close(maps, features)
    torch.testing.assert_close(after[..., :-1], features[:, 0])
    assert ((after[..., -1] > 0) & (after[..., -1] <= 1)).all()


def test_step_by_step_is_as_all_at_once(memory):
    features = torch.randn(B, T, P, E)
    maps, after, _ = memory(features)
    state = None
    for t in range(T):
        one, state, _ = memory(features[:, t : t + 1], state)
        torch.testing.assert_close(one[:, 0], maps[:, t])
    torch.testing.assert_close(state, after)


def test_what_was_seen_stays_while_it_is_hidden_and_what_is_seen_again_replaces_it(memory):
    memory = blind(memory, feature=0)
    zone, occluder, floor = torch.zeros(3, 1, 1, 1, E).unbind(0)
    zone[..., 1], occluder[..., 0], floor[..., 2] = 1.0, 1.0, 1.0
    maps, *_ = memory(torch.cat([zone, occluder, occluder, floor], 1))
    torch.testing.assert_close(maps[0, 1:3], zone[0].expand(2, -1, -1), atol=2.5 * LEAST, rtol=0)
    torch.testing.assert_close(maps[0, 3], floor[0, 0], atol=2.5 * LEAST, rtol=0)


def test_what_is_hidden_from_the_start_gives_way_at_once(memory):
    memory = blind(memory, feature=0)
    occluder, zone = torch.zeros(2, 1, 1, 1, E).unbind(0)
    occluder[..., 0], zone[..., 1] = 1.0, 1.0
    maps, *_ = memory(torch.cat([occluder, zone], 1))
    torch.testing.assert_close(maps[0, 0], occluder[0, 0])
    torch.testing.assert_close(maps[0, 1], zone[0, 0], atol=2.5 * LEAST, rtol=0)


@pytest.mark.parametrize("logit", [-4.0, 0.0])
def test_what_is_probably_hidden_does_not_wear_away_what_was_seen(memory, logit):
    """Five seconds at 10 Hz behind an arm that the gate is not sure of, or that leaves half of the cell open."""
    memory = blind(memory, feature=0)
    memory.seen[-1].weight.data[0, 0] = logit / 10 - 2.0
    mark, arm = torch.zeros(2, 1, 1, 1, E).unbind(0)
    mark[..., 1], arm[..., 0] = 1.0, 1.0
    maps, _, found = memory(torch.cat([mark, arm.expand(-1, 50, -1, -1)], 1))
    torch.testing.assert_close(found[0, 1:], torch.full((50, 1), logit), atol=0.01, rtol=0)
    assert maps[0, -1, 0, 1] > 0.9
