"""What joint samples lose when several points are drawn at once, on test scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.joint import sample_jointly, spread_orders, step_slices
from fpt_ros.core.model import FlowPokeModel, ImageContext
from fpt_ros.core.parts import MOVING
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import cell_centres, choose_pokes
from fpt_ros.evaluate import metrics
from fpt_ros.evaluate.runner import TestSample

POINTS_PER_STEP = (1, 4, 16, 64)
N_SAMPLES = 8
_STRIDE = 4  # of the grid on which truth is known
_STATIC = torch.ones(1, dtype=torch.bool)


@torch.inference_mode()
def exact_log_prob(
    model: FlowPokeModel,
    image: ImageContext,
    poke_xy: Tensor,
    poke_flow: Tensor,
    points: Tensor,
    flows: Tensor,
) -> Tensor:
    """Log-density [S, N] of each point's flow given the pokes and all points before it.

    poke_xy, poke_flow [P, 2], points and flows [S, N, 2], in the unit square; static camera. One
    pass for all points. The sum over N is the log-density of a sample drawn one point at a time.
    """
    n_samples, n_pokes = len(points), len(poke_xy)
    xy, flow = (
        torch.cat([before.expand(n_samples, -1, -1), after], dim=1)[None]
        for before, after in ((poke_xy, points), (poke_flow, flows))
    )
    raw = model.nested(image, xy, flow, xy.unsqueeze(-2), _STATIC)[0, :, n_pokes:, 0]
    return model.mixture(raw).log_prob(flows.to(torch.float64))


def stepwise_log_prob(
    engine: TorchEngine,
    image: ImageContext,
    poke_xy: Tensor,
    poke_flow: Tensor,
    points: Tensor,
    flows: Tensor,
    steps: Sequence[slice],
) -> Tensor:
    """The same if each point is drawn given the points of earlier steps only."""
    n_samples = len(points)
    start_xy, start_flow = (each.expand(1, n_samples, -1, -1) for each in (poke_xy, poke_flow))
    pokes = engine.condition(image, start_xy, start_flow)
    raws = []
    for step in steps:
        raws.append(engine.query(image, pokes, points[None, :, step])[0])
        pokes, _ = engine.extend(image, pokes, points[None, :, step], flows[None, :, step])
    return engine.mixture(torch.cat(raws, dim=1)).log_prob(flows.to(torch.float64))


def compare(
    engine: TorchEngine, samples: Iterable[TestSample]
) -> Iterator[list[dict[str, float | str]]]:
    """Yield, after each sample, a line for each number of points per step: means so far.

    The largest motion is the only poke; errors and rigidity are those of the points that move.
    Samples with a moving camera, with points of unknown motion, or in which too few points move to
    tell whether they are rigid, are passed over. One point per step visits them in a random order,
    more than one in an order that spreads them: errors differ by that, too, divergences do not.
    """
    predictor = MotionPredictor(engine)
    measured: dict[int, list[list[float]]] = {}
    for sample in samples:
        side = len(sample.flow)
        grid = np.s_[_STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]
        truth = sample.flow[grid].reshape(-1, 2)
        moving = np.linalg.norm(truth, axis=-1) > MOVING
        enough = moving.sum() >= metrics.FEWEST_RIGID_POINTS
        if not (sample.camera_static and sample.valid.all() and enough):
            continue
        points = torch.from_numpy(cell_centres(side).reshape(side, side, 2)[grid].reshape(-1, 2))
        flow = sample.flow.reshape(-1, 2)
        first = int(choose_pokes(flow, 1, np.random.default_rng(0))[0])
        poke = (
            torch.from_numpy(cell_centres(side)[first, None]),
            torch.from_numpy(flow[first, None]),
        )
        image = predictor.encode_image(sample.image).context
        for n in (*(n for n in POINTS_PER_STEP if n < len(points)), len(points)):
            drawn, lost = _drawn(engine, image, poke, points, n)
            error_px = metrics.endpoint_error_px(drawn.numpy(), truth)[:, moving].mean(1)
            rigidity = metrics.rank5_residual(drawn.numpy()[:, moving])
            line = [float(error_px.mean()), float(error_px.min()), rigidity, lost]
            measured.setdefault(n, []).append(line)
        yield [_line(n, len(points), np.array(each)) for n, each in measured.items()]


def _drawn(
    engine: TorchEngine,
    image: ImageContext,
    poke: tuple[Tensor, Tensor],
    points: Tensor,
    points_per_step: int,
) -> tuple[Tensor, float]:
    """Joint samples [S, N, 2], and the divergence from exact ones in the same order, per point.

    The divergence KL(drawn || exact), in nats, is estimated from the samples.
    """
    if points_per_step == len(points):  # in one step, so independently
        steps = [slice(0, len(points))]
        order = spread_orders(points, N_SAMPLES, torch.Generator().manual_seed(0))
        pokes = engine.condition(image, poke[0][None, None], poke[1][None, None])
        mixture = engine.mixture(engine.query(image, pokes, points[None, None])[0, 0])
        drawn = mixture.sample(N_SAMPLES, torch.Generator().manual_seed(0)).float()
    else:
        steps = step_slices(len(points), points_per_step)
        drawn = sample_jointly(
            engine, image, *poke, points, N_SAMPLES, _STATIC, torch.Generator().manual_seed(0),
            points_per_step=points_per_step,
        )  # fmt: skip
        if points_per_step == 1:
            return drawn, 0.0
        order = spread_orders(points, N_SAMPLES, torch.Generator().manual_seed(0))
    flows = drawn.take_along_dim(order[..., None], dim=1)
    stepwise = stepwise_log_prob(engine, image, *poke, points[order], flows, steps)
    exact = exact_log_prob(engine.model, image, *poke, points[order], flows)
    return drawn, float((stepwise - exact).mean())


def _line(points_per_step: int, n_points: int, values: np.ndarray) -> dict[str, float | str]:
    error_px, best_px, rigidity, lost = values.mean(0)
    independent = points_per_step == n_points
    spread = values[:, 3].std(ddof=1) if len(values) > 1 else np.nan
    return {
        "points per step": "all, independently" if independent else str(points_per_step),
        "steps": 1 if independent else len(step_slices(n_points, points_per_step)),
        "mean error, px of 448": error_px,
        f"best of {N_SAMPLES}, px of 448": best_px,
        "rank-5 residual": rigidity,
        "divergence from exact, nats per point": lost,
        "standard error": float(spread / len(values) ** 0.5),
        "scenes": len(values),
    }
