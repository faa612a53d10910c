"""Cost to go over a map: the eikonal equation |∇V| = s, solved by as many upwind steps as the way is long.

Learning what each place costs and letting the equation carry it to the goal leaves no local minimum for a robot to stop
in, where a network that regresses V at each place does. It is a value iteration network (Tamar et al., 2016) whose
update is the Godunov scheme of the fast marching method (Sethian, 1996), so that ways are as long as in free space and
not as on a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

REACH = 8  # cells that gradients travel: a place is taught by the costs around it, at a quarter of the time of all
BEYOND = 1e4  # cost of leaving the map


def cost_to_go(slowness: Tensor, stop: Tensor) -> Tensor:
    """V [N, H, W]: the least, over all ways through the map, of the slowness gathered plus ``stop`` at the way's end.

    Args:
        slowness: cost of crossing each cell, > 0, [N, H, W].
        stop: cost of being done at each cell, about 0 at the goal and large elsewhere, [N, H, W].
    """
    with torch.autocast(slowness.device.type, enabled=False):  # bfloat16 would end the way after a few cells
        # Maps last: shifts along the first axes are then whole rows of memory.
        slowness, stop = (x.float().permute(1, 2, 0).contiguous() for x in (slowness, stop))
        value = stop
        with torch.no_grad():
            for _ in range(sum(stop.shape[:2])):  # a way along two sides of the map; longer ones come out too dear
                value = _upwind(value, slowness, stop)
        for _ in range(REACH):
            value = _upwind(value, slowness, stop)
        return value.permute(2, 0, 1)


def slowness_of(value: Tensor) -> Tensor:
    """The slowness that a cost to go V [N, H, W] tells of: what crossing each cell costs; 0 at the goal.

    It undoes a step of :func:`cost_to_go`, and so tells what an oracle's V takes for open and for blocked.
    """
    value = value.permute(1, 2, 0)
    across, down = (value - nearest for nearest in _nearest(value))
    square = across.clamp(min=0).square() + down.clamp(min=0).square()
    return square.clamp(min=1e-8).sqrt().permute(2, 0, 1)


def _nearest(value: Tensor) -> tuple[Tensor, Tensor]:
    """The less of the two neighbours in a row, and in a column, of each cell of [H, W, N]."""
    around = pad(value, (0, 0, 1, 1, 1, 1), value=BEYOND)
    return torch.minimum(around[1:-1, :-2], around[1:-1, 2:]), torch.minimum(around[:-2, 1:-1], around[2:, 1:-1])


def _upwind(value: Tensor, slowness: Tensor, stop: Tensor) -> Tensor:
    """One Jacobi step of Godunov's scheme on [H, W, N]."""
    across, down = _nearest(value)
    apart = torch.minimum((across - down).abs(), slowness)  # where one is too dear, the way comes from the other alone
    step = (apart + (2 * slowness.square() - apart.square()).sqrt()) / 2
    return torch.minimum(stop, torch.minimum(across, down) + step)
