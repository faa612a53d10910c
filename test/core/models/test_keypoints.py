import pytest
import torch

from tc_mmwm_core.models.keypoints import Keypoints


@pytest.fixture
def keypoints():
    """Of two bodies and two cameras of 4 x 4 cells; features are the heat maps, the first camera alone is trusted."""
    torch.manual_seed(0)
    keypoints = Keypoints(width=2, shape=(4, 4), cameras=2, bodies=2, sensors=3, latent=8)
    keypoints.heat = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    with torch.no_grad():
        keypoints.trust.weight.zero_()
        keypoints.trust.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))  # of each body, the cameras
    return keypoints


def test_places_are_those_of_the_hot_cells_and_offsets_are_counted_in_cells(keypoints):
    features = torch.zeros(1, 2 * 16, 2)
    features[0, 0, 0] = 100  # top left
    features[0, 3 * 4 + 2, 1] = 100  # bottom row, third column
    features[0, 16 + 3] = 100  # of the other camera, both: top right
    logits, told = keypoints(features, torch.zeros(1, 3))
    assert logits.shape == (1, 4, 4, 4) and logits[0, 1, 3, 2] == logits[0, 3, 0, 3] == 100
    assert told.shape == (1, keypoints.size)
    places, offset, elsewhere = told[0].split([4, 2, 6])
    torch.testing.assert_close(places, torch.tensor([-0.75, 0.75, 0.25, -0.75]))
    torch.testing.assert_close(keypoints.places(told)[0], places)
    torch.testing.assert_close(offset, torch.tensor([2.0, -3.0]))
    torch.testing.assert_close(elsewhere, torch.tensor([0.75, 0.75, 0.0]).repeat(2), atol=1e-5, rtol=0)


def test_the_spread_of_a_heat_map_is_its_variance(keypoints):
    features = torch.zeros(1, 2 * 16, 2)
    features[0, [16, 16 + 3]] = 100  # the two upper corners, as likely
    _, told = keypoints(features, torch.zeros(1, 3))
    torch.testing.assert_close(told[0, -3:], torch.tensor([0.0, 0.75, 0.75**2]))


def test_learns_a_hidden_place_from_the_hands_camera_and_the_sensors():
    """The first camera sees nothing of the body; the other one, on the hand, sees where it is from there."""
    torch.manual_seed(0)
    keypoints = Keypoints(width=2, shape=(4, 4), cameras=2, bodies=1, sensors=2, latent=8)
    optimizer = torch.optim.Adam(keypoints.parameters(), 1e-2)
    for _ in range(300):
        cell, hand = torch.randint(16, (128,)), torch.rand(128, 2) - 0.5
        features = torch.zeros(128, 2 * 16, 2)
        features[torch.arange(128), 16 + cell] = torch.tensor([1.0, -1.0])
        truth = hand + 0.5 * keypoints.grid[cell]
        _, told = keypoints(features, hand)
        error = (keypoints.places(told) - truth).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.03


@torch.no_grad()
def test_a_sharp_map_has_no_negative_variance():
    """Not in float32, where the mean square less the square of the mean is rounded to one; nor NaN in bfloat16."""
    torch.manual_seed(0)
    keypoints = Keypoints(width=2, shape=(16, 16), cameras=1, bodies=2, sensors=3, latent=8)
    keypoints.heat = torch.nn.ModuleList([torch.nn.Identity()])
    features, reading = (30 * torch.randn(256, 16 * 16, 2)).bfloat16(), torch.zeros(256, 3)
    exact = keypoints(features.float(), reading)[1]
    with torch.autocast("cpu", torch.bfloat16):
        told = keypoints(features, reading)[1]
    assert exact.isfinite().all() and torch.equal(told, exact)
    assert keypoints._mean(features.float().transpose(1, 2))[1].min() >= 0
