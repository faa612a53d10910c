"""Encoders and decoder: what their docstrings promise of shapes, units and normalisation."""

import pytest
import torch

from tc_mmwm_core.models.decoder import ImageDecoder
from tc_mmwm_core.models.encoders import LanguageEncoder, SensorEncoder, VisionEncoder
from tc_mmwm_core.models.layers import Block, KeysValues, coordinates


def test_an_image_that_does_not_divide_into_cells_is_refused():
    with pytest.raises(ValueError, match="image is 30x64; height and width must be multiples of 4"):
        VisionEncoder(1, (30, 64), 16, 8)


def test_maps_of_several_cameras_lie_end_to_end():
    vision = VisionEncoder(2, (16, 24), 16, 8)
    features = vision.map([torch.randint(0, 256, (3, 16, 24, 3), dtype=torch.uint8) for _ in range(2)])
    assert features.shape == (3, 2 * 4 * 6, 16) and vision(features).shape == (3, 8)


def test_the_convolutions_are_compiled_with_the_encoder():
    vision, graphs = VisionEncoder(1, (16, 24), 16, 8), []
    images = [torch.randint(0, 256, (3, 16, 24, 3), dtype=torch.uint8)]
    expected, names = vision.map(images), list(vision.state_dict())

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    vision.compile(backend=backend, dynamic=True)
    torch.testing.assert_close(vision.map(images), expected)
    assert any("conv2d" in str(node.target) for graph in graphs for node in graph.graph.nodes)
    assert list(vision.state_dict()) == names


def test_sensors_are_normalised_and_clipped():
    encoder = SensorEncoder(2, 16, 8)
    encoder.mean.copy_(torch.tensor([1.0, -2.0]))
    encoder.scale.copy_(torch.tensor([2.0, 0.5]))
    normal = encoder.normalise(torch.tensor([[1.0, -2.0], [3.0, -2.5], [1e6, -1e6]]))
    torch.testing.assert_close(normal, torch.tensor([[0.0, 0.0], [1.0, -1.0], [5.0, -5.0]]))


def test_coordinates_are_cell_centres_with_y_up():
    grid = coordinates(2, 4)[0]
    torch.testing.assert_close(grid[0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(grid[1, :, 0], torch.tensor([0.5, -0.5]))


def test_decoded_image_is_a_quarter_of_what_was_seen():
    assert ImageDecoder(8, (16, 24))(torch.randn(2, 5, 8)).shape == (2, 5, 3, 4, 6)


def test_attention_is_torchs_own():
    """One memory, no grouping: torch.nn.MultiheadAttention with the same weights."""
    torch.manual_seed(0)
    ours, theirs = Block(8, 2).attentions[0], torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    queries, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.arange(5) < torch.tensor([[4], [2]])
    expected, _ = theirs(queries, memory, memory, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, KeysValues(memory, mask=mask)), expected)


def test_attention_reads_other_values_than_it_looks_for():
    torch.manual_seed(0)
    attention = Block(8, 2).attentions[0]
    queries, keys, values = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.zeros(2, 5, 8)
    read = attention(queries, KeysValues(keys, values))
    torch.testing.assert_close(read, attention.out(attention.value.bias).expand(2, 3, 8))


def test_a_word_is_found_by_its_phrase_and_read_by_itself():
    """What the sentence names elsewhere changes neither; where the sentence ends does not either."""
    torch.manual_seed(0)
    encoder = LanguageEncoder(torch.randn(50, 6), 8, 4)
    tokens = torch.arange(10)[None]
    mask = torch.arange(10) < 8
    features, z_l = encoder(tokens, mask[None])
    assert features.shape == (1, 10, 16) and z_l.shape == (1, 4)
    other = tokens.clone()
    other[0, 6] = 40
    changed, other_z_l = encoder(other, mask[None])
    same = (features == changed)[0]
    assert same[:4].all() and not same[4:8, :8].all(1).any()  # the phrases of two words to either side
    assert same[:6, 8:].all() and not same[6, 8:].any() and same[7, 8:].all()
    assert not torch.equal(z_l, other_z_l)
    padded, padded_z_l = encoder(torch.cat([tokens, tokens], 1), torch.cat([mask, mask & False])[None])
    torch.testing.assert_close((padded[:, :8], padded_z_l), (features[:, :8], z_l))
