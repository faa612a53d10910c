import torch

from tc_mmwm_core.models.keypoints import Keypoints


def test_places_are_those_of_the_hot_cells_and_offsets_are_counted_in_cells():
    keypoints = Keypoints(width=2, shape=(4, 4), bodies=2, latent=8)
    keypoints.heat = torch.nn.Identity()  # a feature a body: the map is the heat map
    features = torch.zeros(1, 2 * 16, 2)  # two cameras
    features[0, 0, 0] = 100  # top left
    features[0, 3 * 4 + 2, 1] = 100  # bottom row, third column
    features[0, 16:] = 200  # of the other camera: not looked at
    logits, places = keypoints(features)
    assert logits.shape == (1, 2, 4, 4) and logits[0, 1, 3, 2] == 100
    torch.testing.assert_close(places, torch.tensor([[[-0.75, 0.75], [0.25, -0.75]]]))
    torch.testing.assert_close(keypoints.tell(features), torch.tensor([[-0.75, 0.75, 0.25, -0.75, 2.0, -3.0]]))
    assert keypoints.tell(features).shape[-1] == keypoints.size
