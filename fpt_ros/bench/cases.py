"""What is timed of a network: each stage alone, and from the image to the moving part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpt_ros.bench import counts
from fpt_ros.bench.plain import Past, PlainModel
from fpt_ros.bench.timing import Case
from fpt_ros.core.config import FPT_BASE
from fpt_ros.core.encoder import ImageFeatures
from fpt_ros.core.engine import Engine
from fpt_ros.core.joint import step_slices
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.parts import influence, moving_part_of_grid
from fpt_ros.core.pixels import Pixels
from fpt_ros.core.predictor import MotionPredictor

# Of the image that a camera might deliver.
_IMAGE_SHAPE = (480, 640, 3)
POINTS_PER_STEP = 64
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


class Cases:
    """Builds the cases for one network, one engine that runs it, and its plain implementation.

    Targets are for FPT-Base.
    """

    def __init__(self, model: FlowPokeModel, engine: Engine) -> None:
        self._config = model.config
        self._plain = PlainModel(model.to(engine.device))
        self._engine = engine
        self._predictor = MotionPredictor(engine)
        self._rng = np.random.default_rng(0)
        self._rgb = self._rng.integers(0, 256, _IMAGE_SHAPE, dtype=np.uint8)
        self._frame = self._predictor.encode_image(self._rgb)
        self._pixels = self._frame.transform.crop_and_resize(Pixels(self._rgb), engine.device)[None]
        self._features = self._encode_plainly()

    def encode(self) -> Case:
        """The encoder alone, with the keys of the image."""
        return self._case(
            "encode",
            lambda: self._engine.encode(self._pixels),
            self._encode_plainly,
            counts.encode(self._config),
            target=4,
        )

    def condition(self, candidates: int, n_pokes: int) -> Case:
        """Sets of pokes, and one point each: some engines do the work with the first question."""
        xy, flow = self._pokes(candidates, n_pokes)
        points = self._points(candidates, 1)
        context = self._frame.context

        def run() -> object:
            return self._engine.query(context, self._engine.condition(context, xy, flow), points)

        return self._case(
            f"condition, one point: {_plural(candidates, 'candidate')} of "
            f"{_plural(n_pokes, 'poke')}",
            run,
            lambda: self._plain.predict(self._features, xy[0, 0], flow[0, 0], points[0, 0]),
            counts.advance(self._config, candidates, 0, n_pokes, 1),
            plain_calls=candidates,
        )

    def query(self, candidates: int, n_pokes: int, n_points: int, target: float | None) -> Case:
        """Pokes and points on an image that is encoded already, as the predictor asks."""
        transform, points = self._frame.transform, self._points(candidates, n_points)
        xy, flow = self._pokes(candidates, n_pokes)
        each_px = [transform.to_source(xy), transform.displacement_to_source(flow)]
        candidates_px = list(torch.cat(each_px, dim=-1)[0].cpu().numpy())
        points_px = transform.to_source(points[0, 0]).cpu().numpy()
        each = "" if candidates == 1 else f"{candidates} candidates, each "
        return self._case(
            f"{each}{_plural(n_pokes, 'poke')}, {_plural(n_points, 'query', 'queries')}",
            lambda: self._predictor.predict_candidates(candidates_px, points_px, frame=self._frame),
            lambda: self._predict_plainly(self._features, xy[0, 0], flow[0, 0], points[0, 0]),
            counts.advance(self._config, candidates, 0, n_pokes, n_points),
            plain_calls=candidates,
            answers=candidates * n_points,
            target=target,
        )

    def joint_step(self, n_samples: int, n_past: int, target: float | None) -> Case:
        """A step of exact joint sampling: one more poke, one query, in every sample."""
        context = self._frame.context
        past_xy, past_flow = self._pokes(n_samples, n_past)
        xy, flow = self._pokes(n_samples, 1)
        points = self._points(n_samples, 1)

        @cache  # when the case is run for the first time
        def past() -> Any:
            pokes = self._engine.condition(context, past_xy, past_flow)
            self._engine.query(context, pokes, points)  # some engines take the pokes in only now
            return pokes

        return self._case(
            f"joint sampling: a step after {n_past} points, {_plural(n_samples, 'sample')}",
            lambda: self._engine.extend(context, past(), xy, flow, points),
            self._plain_step(past_xy, past_flow, xy, flow, points),
            counts.advance(self._config, n_samples, n_past, 1, 1),
            plain_calls=n_samples,
            answers=n_samples,
            target=target,
        )

    def joint_grid(self, n: int, target: float | None) -> Case:
        """A joint sample of an n x n grid, several points per step.

        The plain implementation takes one step per point. Timed is one with half of the points
        cached, which is what they cost on average, and multiplied.
        """
        points_px = self._frame.transform.grid(n)
        xy, flow = self._pokes(1, 1)
        past_xy, past_flow = self._pokes(1, n * n // 2)
        count = counts.joint(self._config, 1, step_slices(n * n, POINTS_PER_STEP))

        def run() -> object:
            return self._predictor.sample_jointly(
                [[320, 240, 10, 0]],
                points_px,
                1,
                torch.Generator().manual_seed(0),
                frame=self._frame,
                points_per_step=POINTS_PER_STEP,
            )

        return self._case(
            f"joint sampling: {n}x{n} grid, {POINTS_PER_STEP} points per step (approximate)",
            run,
            self._plain_step(past_xy, past_flow, xy, flow, xy),
            count,
            plain_calls=n * n,
            answers=n * n,
            target=target,
        )

    def moving_part(self, n: int, target: float | None) -> Case:
        """From a camera's image to the grid without and with a poke, and the moving part."""
        poke = [[320, 240, 10, 0]]
        transform = self._frame.transform

        def run() -> object:
            frame = self._predictor.encode_image(self._rgb)
            return self._predictor.moving_parts(poke, n, frame=frame)

        unit = torch.from_numpy(transform.to_unit(transform.grid(n))).to(self._pixels.device)
        xy, flow = self._pokes(1, 1)
        none = xy[0, 0, :0]

        def plain() -> object:
            features = self._encode_plainly()
            conditional = self._predict_plainly(features, xy[0, 0], flow[0, 0], unit)
            without = self._predict_plainly(features, none, none, unit)
            score = influence(conditional, without).reshape(n, n)
            in_px = transform.displacement_to_source(torch.eye(2, dtype=torch.float64))
            return moving_part_of_grid(score, conditional.affine(in_px), transform)

        count = counts.encode(self._config)
        for n_pokes in (0, 1):
            count.add(counts.advance(self._config, 1, 0, n_pokes, n * n))
        return self._case(
            f"image to moving part, {n}x{n} grid",
            run,
            plain,
            count,
            answers=2 * n * n,
            target=target,
        )

    def _encode_plainly(self) -> ImageFeatures:
        return self._plain.encode(self._pixels.to(self._engine.dtype) / 127.5 - 1)

    def _predict_plainly(
        self, features: ImageFeatures, xy: Tensor, flow: Tensor, points: Tensor
    ) -> GaussianMixture:
        return self._engine.mixture(self._plain.predict(features, xy, flow, points))

    def _plain_step(
        self, past_xy: Tensor, past_flow: Tensor, xy: Tensor, flow: Tensor, points: Tensor
    ) -> Callable[[], object]:
        """A step of the first sample, after past pokes that are taken in once."""

        @cache
        def past() -> Past:
            question = (past_xy[0, 0], past_flow[0, 0], points[0, 0])
            return self._plain.advance(self._features, None, *question)[0]

        return lambda: self._plain.advance(
            self._features, past(), xy[0, 0], flow[0, 0], points[0, 0]
        )

    def _case(
        self,
        name: str,
        run: Callable[[], object],
        plain: Callable[[], object] | None,
        count: counts.Count,
        plain_calls: int = 1,
        answers: int = 0,
        target: float | None = None,
    ) -> Case:
        moved = float(count.numbers * _BYTES[self._engine.precision])
        target = target if self._config == FPT_BASE else None
        return Case(name, run, plain, plain_calls, answers, float(count.flops), moved, target)

    def _points(self, candidates: int, n: int) -> Tensor:
        """Points [1, candidates, n, 2] of the unit square, the same for all candidates."""
        points = self._rng.random((1, 1, n, 2), dtype=np.float32)
        return torch.from_numpy(points).to(self._pixels.device).expand(1, candidates, -1, -1)

    def _pokes(self, candidates: int, n: int) -> tuple[Tensor, Tensor]:
        """Positions and flows [1, candidates, n, 2]."""
        xy, flow = self._rng.random((2, 1, candidates, n, 2), dtype=np.float32)
        both = torch.from_numpy(np.stack([xy, 0.2 * flow - 0.1])).to(self._pixels.device)
        return both[0], both[1]


def _plural(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
