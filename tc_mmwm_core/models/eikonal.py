"""Cost to go over a map: the eikonal equation |∇V| = s, solved by as many upwind steps as the way is long.

Learning what each place costs and letting the equation carry it to the goal leaves no local minimum for a robot to stop
in, where a network that regresses V at each place does. It is a value iteration network (Tamar et al., 2016) whose
update is the Godunov scheme of the fast marching method (Sethian, 1996), so that ways are as long as in free space and
not as on a grid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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
        with torch.no_grad():
            value = _settled(slowness, stop)
        step = _Upwind.apply if torch.is_grad_enabled() else _upwind  # exported is the plain one
        for _ in range(REACH):
            value = step(value, slowness, stop)
        return value.permute(2, 0, 1)


def slowness_of(value: Tensor) -> Tensor:
    """The slowness that a cost to go V [N, H, W] tells of: what crossing each cell costs; 0 at the goal.

    It undoes a step of :func:`cost_to_go`, and so tells what an oracle's V takes for open and for blocked.
    """
    value = value.permute(1, 2, 0)
    across, down = (value - nearest for nearest in _nearest(value))
    square = across.clamp(min=0).square() + down.clamp(min=0).square()
    return square.clamp(min=1e-8).sqrt().permute(2, 0, 1)


def _settled(slowness: Tensor, stop: Tensor) -> Tensor:
    """``stop`` after as many Jacobi steps as the longest way along two sides of the map has cells, [H, W, N]."""
    if torch.onnx.is_in_onnx_export():
        value = stop
        for _ in range(sum(stop.shape[:2])):  # longer ways come out too dear
            value = _upwind(value, slowness, stop)
        return value
    return (_graph(stop.shape, stop.device) if stop.is_cuda else _sweep)(slowness, stop)


def _sweep(slowness: Tensor, stop: Tensor) -> Tensor:
    """The steps of :func:`_settled`, the same to the last bit, in buffers that are written over: half the time."""
    around = pad(stop, (0, 0, 1, 1, 1, 1), value=BEYOND)
    value, (left, right, above, below) = around[1:-1, 1:-1], _neighbours(around)
    across, down, root = torch.empty_like(stop), torch.empty_like(stop), torch.empty_like(stop)
    most = 2 * slowness.square()
    for _ in range(sum(stop.shape[:2])):
        torch.minimum(left, right, out=across)
        torch.minimum(above, below, out=down)
        torch.sub(across, down, out=root).abs_()
        torch.minimum(across, down, out=across)
        apart = torch.minimum(root, slowness, out=down)
        torch.sub(most, torch.mul(apart, apart, out=root), out=root).sqrt_()
        across.add_(apart.add_(root).div_(2))
        torch.minimum(stop, across, out=value)
    return value.contiguous()


@functools.lru_cache(maxsize=16)
def _graph(shape: torch.Size, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """:func:`_sweep` as one CUDA graph: its launches, one by one, are a quarter of all that a training step makes."""
    slowness, stop = torch.ones(shape, device=device), torch.ones(shape, device=device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        _sweep(slowness, stop)  # what a first call allocates must not be part of the graph
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be copying the next batch
        value = _sweep(slowness, stop)

    def replay(its_slowness: Tensor, its_stop: Tensor) -> Tensor:
        slowness.copy_(its_slowness)
        stop.copy_(its_stop)
        graph.replay()
        return value.clone()

    return replay


def _neighbours(around: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is to the left and right of each cell, above and below it: [H, W, N] each, views of [H + 2, W + 2, N]."""
    return around[1:-1, :-2], around[1:-1, 2:], around[:-2, 1:-1], around[2:, 1:-1]


def _nearest(value: Tensor) -> tuple[Tensor, Tensor]:
    """The less of the two neighbours in a row, and in a column, of each cell of [H, W, N]."""
    left, right, above, below = _neighbours(pad(value, (0, 0, 1, 1, 1, 1), value=BEYOND))
    return torch.minimum(left, right), torch.minimum(above, below)


def _upwind(value: Tensor, slowness: Tensor, stop: Tensor) -> Tensor:
    """One Jacobi step of Godunov's scheme on [H, W, N]."""
    across, down = _nearest(value)
    apart = torch.minimum((across - down).abs(), slowness)  # where one is too dear, the way comes from the other alone
    step = (apart + (2 * slowness.square() - apart.square()).sqrt()) / 2
    return torch.minimum(stop, torch.minimum(across, down) + step)


class _Upwind(torch.autograd.Function):
    """:func:`_upwind` with its derivative in closed form, at a tenth of the time that recording each operation takes.

    With a and d the nearest across and down, δ = a - d cut to ±s and r = √(2s² - δ²), a cell that the way goes on from
    is worth (a + d + r) / 2 where |δ| < s, and the less of a and d plus s beyond. In both, its derivatives are
    1/2 - δ/2r by a, 1/2 + δ/2r by d, and s/r by s.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, slowness: Tensor, stop: Tensor) -> Tensor:
        left, right, above, below = _neighbours(pad(value, (0, 0, 1, 1, 1, 1), value=BEYOND))
        across, down = torch.minimum(left, right), torch.minimum(above, below)
        gap = torch.maximum(torch.minimum(across - down, slowness), -slowness)
        root = (2 * slowness.square() - gap.square()).sqrt()
        goes_on = torch.minimum(across, down) + (gap.abs() + root) / 2
        ctx.save_for_backward(gap / root / 2, slowness / root, left < right, above < below, goes_on < stop)
        return torch.minimum(stop, goes_on)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lean, by_slowness, from_left, from_above, goes_on = ctx.saved_tensors
        through = gradient * goes_on
        across = through * (0.5 - lean)
        down = through - across
        left, above = across * from_left, down * from_above
        around = pad(torch.zeros_like(gradient), (0, 0, 1, 1, 1, 1))
        for place, share in zip(_neighbours(around), (left, across - left, above, down - above), strict=True):
            place += share
        return around[1:-1, 1:-1], through * by_slowness, gradient - through
