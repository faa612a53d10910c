import torch

from tc_mmwm_core.models.views import CrossView

WIDTH, CELLS = 16, 9


def test_only_the_first_cameras_cells_are_completed():
    views, features = CrossView(WIDTH, CELLS, cameras=3), torch.randn(2, 3 * CELLS, WIDTH)
    completed = views(features)
    assert completed.shape == features.shape
    torch.testing.assert_close(completed[:, CELLS:], features[:, CELLS:])
    changed = features.clone()
    changed[:, 2 * CELLS + 4] += torch.randn(WIDTH)
    assert (views(changed)[:, :CELLS] - completed[:, :CELLS]).abs().amax((1, 2)).min() > 1e-3


def test_learns_which_cells_show_the_same_place():
    """The other camera sees the same floor mirrored; a random third of the first camera's cells is hidden."""
    torch.manual_seed(0)
    looks = torch.randn(2, WIDTH)  # of a cell without and with something there
    views, read_off = CrossView(WIDTH, CELLS, cameras=2), torch.nn.Linear(WIDTH, 1)
    optimizer = torch.optim.Adam([*views.parameters(), *read_off.parameters()], 1e-2)
    for _ in range(400):
        there = torch.randint(0, 2, (64, CELLS))
        seen = there * (torch.rand(64, CELLS) > 1 / 3)
        logits = read_off(views(looks[torch.cat([seen, there.flip(1)], 1)])[:, :CELLS])[..., 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, there.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hidden = (seen == 0) & (there == 1)
    assert (logits[hidden] > 0).float().mean() > 0.95
