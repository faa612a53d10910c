"""The instruction's field and its bilinear read."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tc_mmwm_core.models.field import FieldReader, InstructionField
from tc_mmwm_core.models.layers import coordinates

SHAPE, CHANNELS, D = (5, 8), 3, 4


@pytest.fixture
def reader():
    """Its place is the first two numbers of the latent."""
    reader = FieldReader(D, SHAPE, CHANNELS).double()
    reader.locate = torch.nn.Linear(D, 2, bias=False).double()
    torch.nn.init.eye_(reader.locate.weight)
    return reader


def test_read_is_scipys_bilinear_interpolation(reader):
    rng = np.random.default_rng(0)
    field, z = rng.normal(size=(2, CHANNELS, *SHAPE)), rng.uniform(-1.3, 1.3, (2, 7, 3, D))
    read = reader(torch.tensor(z), torch.tensor(field).flatten(1))
    assert read.shape == (2, 7, 3, CHANNELS)
    column = (z[..., 0] + 1) / 2 * SHAPE[1] - 0.5  # x to the right; -1 and 1 are the outer edges of the outer cells
    row = (1 - z[..., 1]) / 2 * SHAPE[0] - 0.5  # y up, the first row at the top
    for n in range(2):
        for channel in range(CHANNELS):
            expected = ndimage.map_coordinates(field[n, channel], [row[n], column[n]], order=1, mode="nearest")
            np.testing.assert_allclose(read[n, ..., channel].detach(), expected, atol=1e-6)


def test_several_bodies_are_read_each_and_their_offsets_known():
    several = FieldReader(D, SHAPE, CHANNELS, bodies=2).double()
    torch.manual_seed(0)
    z, field = torch.randn(3, 5, D, dtype=torch.float64), torch.randn(3, CHANNELS * SHAPE[0] * SHAPE[1]).double()
    read, place = several(z, field), several.place(z)
    assert read.shape == (3, 5, several.size) and place.shape == (3, 5, 4)
    for body in range(2):
        single = FieldReader(2, SHAPE, CHANNELS).double()
        single.locate = torch.nn.Identity()
        own = place[..., 2 * body : 2 * body + 2]
        torch.testing.assert_close(read[..., CHANNELS * body : CHANNELS * (body + 1)], single(own, field))
    torch.testing.assert_close(read[..., -2:], (place[..., 2:] - place[..., :2]) * SHAPE[1] / 2)


def test_read_at_a_cells_centre_is_the_cell_and_midway_the_mean(reader):
    field = torch.arange(CHANNELS * SHAPE[0] * SHAPE[1], dtype=torch.float64).reshape(1, -1)
    values = field.reshape(CHANNELS, *SHAPE)
    centres = coordinates(*SHAPE)[0].double()
    z = torch.zeros(1, 2, D, dtype=torch.float64)
    z[0, 0, :2] = centres[:, 1, 2]
    z[0, 1, :2] = (centres[:, 1, 2] + centres[:, 1, 3]) / 2
    read = reader(z, field)[0]
    torch.testing.assert_close(read[0], values[:, 1, 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(read[1], (values[:, 1, 2] + values[:, 1, 3]) / 2, atol=1e-5, rtol=0)


def test_slope_is_what_a_cell_to_each_side_differs_by(reader):
    x, y = coordinates(*SHAPE)[0].double()
    field = torch.stack([0.3 * x - 0.2 * y, 0.1 * y, x * y])[None].flatten(1)
    places = torch.tensor([[[0.1, -0.2], [-0.3, 0.35]]]).double()
    wide, high = 4 / SHAPE[1], 4 / SHAPE[0]  # two cells
    one_body = torch.tensor([0.3 * wide, 0.0, -0.2 * high, 0.1 * high]).double()
    torch.testing.assert_close(reader.slope(places, field), one_body.repeat(2)[None], atol=1e-6, rtol=0)
    assert reader.slope(places, 100 * field).abs().max() == 1


def test_read_has_the_gradient_of_its_place(reader):
    field = torch.randn(1, CHANNELS * SHAPE[0] * SHAPE[1], dtype=torch.float64, requires_grad=True)
    z = torch.tensor([[[0.13, -0.31, 0, 0], [0.71, 0.52, 0, 0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reader, (z, field))


def test_the_instructions_of_a_map_do_not_mix():
    torch.manual_seed(0)
    net = InstructionField(16, SHAPE, CHANNELS)
    features, slots = torch.randn(2, SHAPE[0] * SHAPE[1], 16), torch.randn(6, 3, 16)
    together = net(features, slots)
    assert together.shape == (6, net.channels * net.shape[0] * net.shape[1])
    for n in range(6):
        alone = net(features[n // 3 : n // 3 + 1], slots[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=1e-4)


def test_half_precision_does_not_round_what_the_eikonal_equation_gives():
    torch.manual_seed(0)
    net, solved = InstructionField(16, SHAPE, CHANNELS), []
    solve = net.solve
    net.solve = lambda *costs: solved.append(solve(*costs)) or solved[-1]
    with torch.autocast("cpu", torch.bfloat16):
        field = net(torch.randn(2, SHAPE[0] * SHAPE[1], 16), torch.randn(6, 3, 16))
    assert torch.equal(field.unflatten(1, (CHANNELS, *net.shape))[:, 0], -solved[0])
    assert not torch.equal(solved[0], solved[0].bfloat16())
