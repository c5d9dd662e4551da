"""From views to training batches: pokes and queries chosen, images augmented, all reproducible.

Batch number `step` of a run is a pure function of the seed and of the data, whatever the number of
processes, so the position in the data is one integer and resuming is exact.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.augment import IDENTITY, UnitAffine, draw_geometry, vary_light
from fpt_ros.data.samples import (
    BadSampleError,
    Motion,
    ShardIndex,
    ShardReader,
    View,
    cell_centres,
)
from fpt_ros.train.config import SelectionConfig, TrainConfig
from fpt_ros.train.rehearsal import turn

log = logging.getLogger(__name__)

_MAX_REDRAWS = 100


@dataclass
class Batch:
    """V views with O outcomes each, which share the image.

    `image` uint8 [V, 3, S, S]; `camera_static` bool [V]; `poke_xy`, `poke_flow` [V, O, L, 2];
    `query_xy`, `query_flow` [V, O, L+1, n, 2], group g sees the first g pokes; `query_moves` bool
    [V, O, L+1, n]; `part_xy` [V, M, 2] and `part` int64 [V, M], part ids of random points.
    Positions and displacements are float32, unit-square units.
    """

    image: Tensor
    camera_static: Tensor
    poke_xy: Tensor
    poke_flow: Tensor
    query_xy: Tensor
    query_flow: Tensor
    query_moves: Tensor
    part_xy: Tensor
    part: Tensor
    n_skipped: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def split(self, n: int) -> list[Batch]:
        """`n` batches of equally many views each."""
        pieces: dict[str, Any] = {
            name: value.chunk(n) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return [
            replace(self, **{name: chunks[i] for name, chunks in pieces.items()}) for i in range(n)
        ]


class TrainingBatches(Dataset[Batch]):
    """Map-style dataset of whole batches: item `step` is this process's share of that step.

    Every epoch is a new permutation of the views. Of `rehearsal`, if there is one, come
    `config.rehearsal_share` of the views, in epochs of their own. A view that turns out unusable is
    counted in `Batch.n_skipped`, reported once, and replaced by another one.
    """

    def __init__(
        self,
        index: ShardIndex,
        config: TrainConfig,
        input_px: int,
        rank: int = 0,
        world: int = 1,
        rehearsal: ShardIndex | None = None,
    ) -> None:
        """Raises InvalidInputError when shares are not whole, or horizons differ."""
        if config.batch % (world * config.accumulate):
            raise InvalidInputError(
                f"batch {config.batch} is not a multiple of processes x accumulate "
                f"({world} x {config.accumulate})"
            )
        if rehearsal is not None and rehearsal.horizon_s != index.horizon_s:
            raise InvalidInputError(
                f"the recording is about displacements over {index.horizon_s:g} s, the synthetic "
                f"data over {rehearsal.horizon_s:g} s: they cannot be mixed; leave --rehearsal out"
            )
        self.index = index
        self.rehearsal = rehearsal
        self.config = config
        self.input_px = input_px
        self._rank, self._world = rank, world
        self._reader = ShardReader()
        self._reported: set[str] = set()

    def __getitem__(self, step: int) -> Batch:
        config, selection = self.config, self.config.selection
        many = selection.many_every > 0 and (step + 1) % selection.many_every == 0
        n_pokes = selection.many_pokes if many else selection.pokes
        n_queries = selection.many_queries if many else selection.queries
        images, statics, rows, parts, n_skipped = [], [], [], [], 0
        per_rank = config.batch // self._world
        first = step * config.batch + self._rank * per_rank
        for position in range(first, first + per_rank):
            rng = np.random.default_rng([config.seed, position])
            rgb, outcomes, geometry, n_bad = self._usable_view(position, rng)
            n_skipped += n_bad
            images.append(vary_light(geometry.image(rgb, self.input_px), rng, config.augment))
            scene = [_Scene(motion, geometry, selection.min_motion) for motion in outcomes]
            statics.append(outcomes[0].camera_static)
            rows += [each.draw(n_pokes, n_queries, rng, selection) for each in scene]
            parts.append(scene[0].draw_parts(selection.part_points, rng))
        poke_xy, poke_flow, query_xy, query_flow, query_moves = (
            torch.from_numpy(np.stack(column)).unflatten(0, (per_rank, config.outcomes))
            for column in zip(*rows, strict=True)
        )
        part_xy, part = (torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True))
        return Batch(
            torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()),
            torch.tensor(statics),
            poke_xy,
            poke_flow,
            query_xy,
            query_flow,
            query_moves,
            part_xy,
            part,
            n_skipped,
        )

    def _usable_view(
        self, position: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Motion], UnitAffine, int]:
        """Image, drawn outcomes and geometry for one position of the run, and what was skipped."""
        views = self.index.views
        if self.rehearsal is not None:
            is_rehearsal, position = turn(position, self.config.rehearsal_share)
            views = self.rehearsal.views if is_rehearsal else views
        epoch, place = divmod(position, len(views))
        view = views[_permutation(self.config.seed, epoch, len(views))[place]]
        for n_bad in range(_MAX_REDRAWS):
            loaded = self._load_or_report(view, rng)
            if loaded is not None:
                return *loaded, n_bad
            view = views[rng.integers(len(views))]
        raise InvalidInputError(
            f"{_MAX_REDRAWS} samples in a row cannot be used; the warnings above say why"
        )

    def _load_or_report(
        self, view: View, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Motion], UnitAffine] | None:
        try:
            return self._load(view, rng)
        except BadSampleError as error:
            reason = str(error)
            if reason not in self._reported:
                self._reported.add(reason)
                log.warning("skipped a sample: %s", reason)
            return None

    def _load(
        self, view: View, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Motion], UnitAffine]:
        shuffled = [view.outcomes[i] for i in rng.permutation(len(view.outcomes))]
        # The camera flag belongs to the image: keep to the outcomes that agree on it.
        alike = [each for each in shuffled if each.camera_static == shuffled[0].camera_static]
        chosen = [alike[i % len(alike)] for i in range(self.config.outcomes)]
        min_motion = self.config.selection.min_motion
        motions = [self._reader.motion(outcome, min_motion) for outcome in chosen]
        rgb = self._reader.image(chosen[0])
        return rgb, motions, _keep_motion(motions, rng, self.config)


@lru_cache(maxsize=4)  # of two sources, where one epoch ends and another begins
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng([seed, epoch, n]).permutation(n)


def _keep_motion(
    motions: list[Motion], rng: np.random.Generator, config: TrainConfig
) -> UnitAffine:
    """A random geometry that keeps, in every outcome, half of what moves inside the picture."""
    for _ in range(4):
        geometry = draw_geometry(rng, config.augment)
        for motion in motions:
            grid = len(motion.part)
            moves = np.square(motion.flow).sum(-1).ravel() > config.selection.min_motion**2
            if _inside(geometry.points(cell_centres(grid)[moves])).mean() < 0.5:
                break
        else:
            return geometry
    return IDENTITY


def _inside(points: np.ndarray) -> np.ndarray:
    return np.all((points > 0) & (points < 1), axis=-1)


class _Scene:
    """One outcome in augmented coordinates, ready to draw pokes and queries from."""

    def __init__(self, motion: Motion, geometry: UnitAffine, min_motion: float) -> None:
        self.grid = len(motion.part)
        self.xy = geometry.points(cell_centres(self.grid))
        self.flow = geometry.displacements(motion.flow.reshape(-1, 2))
        # Inside the picture, and known.
        self.inside = _inside(self.xy) & motion.valid.ravel()
        self.length = np.linalg.norm(self.flow, axis=-1)
        still = np.linalg.norm(motion.flow.reshape(-1, 2), axis=-1) < min_motion
        self.moves = self.inside & ~still
        self.part = motion.part
        self.parts = self.part.ravel() > 0

    def draw(
        self,
        n_pokes: int,
        n_queries: int,
        rng: np.random.Generator,
        config: SelectionConfig,
    ) -> tuple[np.ndarray, ...]:
        """Poke positions and flows, query positions, flows and moving flags.

        Queries prefer parts, moving or not: a preference for what moves in this outcome would be
        knowledge of it, and teach that what is asked about moves.
        """
        inside = self.inside.astype(np.float64)
        moves = self.moves.astype(np.float64)
        first = _draw(rng, moves * self.length, inside, config.first_poke_moves, 1)
        others = _draw(rng, moves, inside, config.other_pokes_move, n_pokes - 1)
        pokes = np.concatenate([first, others])

        n = (n_pokes + 1) * n_queries
        kind = rng.random(n)
        queries = _draw(rng, inside, inside, 0.0, n)
        on_parts = kind < config.queries_on_parts
        queries[on_parts] = _draw(rng, self.parts * inside, inside, 1.0, on_parts.sum())
        at_border = ~on_parts & (kind < config.queries_on_parts + config.queries_at_borders)
        borders = self._borders() * inside
        queries[at_border] = _draw(rng, borders, inside, 1.0, at_border.sum())
        queries = queries.reshape(n_pokes + 1, n_queries)
        return (
            self.xy[pokes],
            self.flow[pokes],
            self.xy[queries],
            self.flow[queries],
            self.moves[queries],
        )

    def draw_parts(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n, 2] and part ids [n] of points, half of them on parts if there are any."""
        inside = self.inside.astype(np.float64)
        points = _draw(rng, inside * self.parts, inside, 0.5, n)
        return self.xy[points], self.part.ravel()[points].astype(np.int64)

    def _borders(self) -> np.ndarray:
        """Cells within two of a change of part ids."""
        labels = self.part.astype(np.float32)
        kernel = np.ones((3, 3), np.uint8)
        high = cv2.dilate(labels, kernel, iterations=2)
        low = cv2.erode(labels, kernel, iterations=2)
        return (high != low).ravel()


def _draw(
    rng: np.random.Generator, preferred: np.ndarray, others: np.ndarray, share: float, n: int
) -> np.ndarray:
    """`n` indices with replacement: weighted by `preferred` with probability `share`, else others.

    Falls back to `others` when nothing is preferred.
    """
    total = preferred.sum()
    from_preferred = rng.random(n) < (share if total > 0 else 0.0)
    picks = np.searchsorted(np.cumsum(others), rng.random(n) * others.sum(), side="right")
    if from_preferred.any():
        chosen = np.searchsorted(np.cumsum(preferred), rng.random(n) * total, side="right")
        picks = np.where(from_preferred, chosen, picks)
    return np.minimum(picks, len(others) - 1)
