"""Joint samples: displacements of many points that fit together, drawn a few points at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .engine import Engine

# A step draws at most this share of the points that are there already, so that each of its points
# has settled neighbours closer than the other points of the step.
_GROWTH = 0.5


def sample_jointly(
    engine: Engine,
    image: Any,
    poke_xy: Tensor,
    poke_flow: Tensor,
    points: Tensor,
    n_samples: int,
    camera_static: Tensor,
    generator: torch.Generator | None = None,
    between_steps: Callable[[], object] = lambda: None,
    points_per_step: int = 1,
) -> Tensor:
    """Sample the flow of all points given the pokes, autoregressively.

    Each sample visits the points in an order of its own: it draws the flow of a point from the
    mixture that the model predicts there, and takes it for one more poke from then on. The keys
    and values of all pokes are cached, so that a step costs two tokens per point.

    One point per step is exact, and the order uniformly random. With more, the points of a step
    do not know of each other. To keep what is lost small, the order spreads the points: each is
    as far as possible from all before it, so that those of one step are far apart, and the steps
    begin small.

    Args:
        engine: what runs the network.
        image: what it knows of the image.
        poke_xy: [P, 2] in the unit square; P may be 0.
        poke_flow: [P, 2].
        points: [N, 2] in the unit square; N may be 0.
        n_samples: S; all samples go through the network as one batch.
        camera_static: bool [1].
        generator: on the CPU, for the orders and the draws.
        between_steps: called before each step; raise from it to abandon the computation.
        points_per_step: how many points at most are drawn at once, from 1 on.

    Returns:
        Flow [S, N, 2] in units of the square, in the order of `points`.
    """
    n_points = len(points)
    if points_per_step == 1:
        order = torch.rand(n_samples, n_points, generator=generator).argsort(1)
    else:
        order = spread_orders(points.cpu(), n_samples, generator)
    order = order.to(points.device)
    visited = points[order]  # [S, N, 2]
    flows = torch.empty_like(visited)
    if n_points == 0:
        return flows
    start_xy, start_flow = (each.expand(1, n_samples, -1, -1) for each in (poke_xy, poke_flow))
    pokes = engine.condition(image, start_xy, start_flow, camera_static=camera_static)
    steps = step_slices(n_points, points_per_step)
    pokes = engine.reserve(pokes, steps[-1].start)
    raw = engine.query(image, pokes, visited[None, :, steps[0]])
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        between_steps()
        drawn = engine.mixture(raw[0].cpu()).sample(1, generator)[0]
        flows[:, step] = drawn.to(flows)
        if following is not None:
            here, there = visited[None, :, step], visited[None, :, following]
            pokes, raw = engine.extend(image, pokes, here, flows[None, :, step], there)
    unordered = torch.empty_like(flows)
    return unordered.scatter_(1, order[..., None].expand_as(flows), flows)


def step_slices(n_points: int, points_per_step: int) -> list[slice]:
    """Which points of an order are drawn in each step; the steps grow with what is drawn."""
    slices, start = [], 0
    while start < n_points:
        size = min(points_per_step, max(1, int(_GROWTH * start)), n_points - start)
        slices.append(slice(start, start + size))
        start += size
    return slices


def spread_orders(
    points: Tensor, n_orders: int, generator: torch.Generator | None = None
) -> Tensor:
    """Orders [S, N] of points [N, 2] in which each is the farthest from all before it.

    Each order begins at a random point. (Gonzalez 1985: any first n points of it are at least
    half as far apart as n points can be.)
    """
    n_points = len(points)
    row = torch.arange(n_orders)
    orders = torch.empty(n_orders, n_points, dtype=torch.long)
    # Where several are as far, as on a grid, chance decides.
    jitter = 1 + 1e-3 * torch.rand(n_orders, n_points, generator=generator)
    nearest = jitter.to(points)
    for i in range(n_points):
        orders[:, i] = chosen = nearest.argmax(1)
        distance = (points - points[chosen, None]).square().sum(-1)
        nearest = torch.minimum(nearest, distance * jitter)
        nearest[row, chosen] = -1
    return orders
