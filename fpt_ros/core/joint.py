"""Joint samples: displacements of many points that fit together, drawn one point at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .engine import Engine


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
) -> Tensor:
    """Sample the flow of all points given the pokes, autoregressively.

    Each sample visits the points in an order of its own, uniformly random: it draws the flow of a
    point from the mixture that the model predicts there, and takes it for one more poke from then
    on. The keys and values of all pokes are cached, so that a step costs two tokens per sample.

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

    Returns:
        Flow [S, N, 2] in units of the square, in the order of `points`.
    """
    n_points = len(points)
    order = torch.rand(n_samples, n_points, generator=generator).argsort(1).to(points.device)
    visited = points[order]  # [S, N, 2]
    flows = torch.empty_like(visited)
    if n_points == 0:
        return flows
    start_xy, start_flow = (each.expand(1, n_samples, -1, -1) for each in (poke_xy, poke_flow))
    pokes = engine.condition(image, start_xy, start_flow, camera_static=camera_static)
    raw = engine.query(image, pokes, visited[None, :, :1])
    for step in range(n_points):
        between_steps()
        drawn = engine.mixture(raw[0, :, 0].cpu()).sample(1, generator)[0]
        flows[:, step] = drawn.to(flows)
        if step + 1 < n_points:
            here, there = visited[None, :, step, None], visited[None, :, step + 1, None]
            pokes, raw = engine.extend(image, pokes, here, flows[None, :, step, None], there)
    unordered = torch.empty_like(flows)
    return unordered.scatter_(1, order[..., None].expand_as(flows), flows)
