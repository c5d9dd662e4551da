"""Quick validation during training: a fixed set of views, no poke and one on the longest motion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.parts import MOVING
from fpt_ros.data.augment import IDENTITY
from fpt_ros.data.samples import (
    REPORT_SIDE_PX,
    BadSampleError,
    ShardIndex,
    ShardReader,
    cell_centres,
    choose_pokes,
)
from fpt_ros.train.loss import to_model_range

log = logging.getLogger(__name__)

KL_THRESHOLDS_NATS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass
class ValidationSet:
    """B views with one outcome each.

    `image` uint8 [B, 3, S, S], `xy` float32 [N, 2], `flow` float32 [B, N, 2], `valid` bool [B, N]
    (where the flow is known; elsewhere it is 0), `camera_static` bool [B]; unit-square units.
    `scene` int [B]: the same number, the same scene.
    """

    image: Tensor
    xy: Tensor
    flow: Tensor
    valid: Tensor
    camera_static: Tensor
    scene: NDArray[np.intp]

    @classmethod
    def load(cls, index: ShardIndex, n_views: int, grid: int, input_px: int) -> ValidationSet:
        """About `n_views` views spread over the split; unusable ones are left out.

        Of each sample's cells, about `grid` per side are kept. Raises InvalidInputError when
        nothing is left, nothing moves in what is left, or samples have different grids.
        """
        reader = ShardReader()
        images, flows, valids, statics, scenes = [], [], [], [], []
        kept, cells = np.empty((0, 2), np.float32), 0
        for i, view in enumerate(index.take(n_views).views):
            outcome = view.outcomes[i % len(view.outcomes)]
            try:
                motion = reader.motion(outcome, MOVING)
                rgb = reader.image(outcome)
            except BadSampleError as error:
                log.warning("left out of validation: %s", error)
                continue
            if cells and len(motion.part) != cells:
                raise InvalidInputError(
                    f"{outcome.shard}:{outcome.key} has a grid of {len(motion.part)} cells per "
                    f"side, those before it {cells}: to validate, all must have the same"
                )
            cells = len(motion.part)
            stride = max(1, cells // grid)
            every = slice(stride // 2, None, stride)
            kept = cell_centres(cells).reshape(cells, cells, 2)[every, every].reshape(-1, 2)
            valid = motion.valid[every, every].ravel()
            if not valid.any():
                where = f"{outcome.shard}:{outcome.key}"
                log.warning("left out of validation: %s: no motion is known at its points", where)
                continue
            flows.append(motion.flow[every, every].reshape(-1, 2))
            valids.append(valid)
            images.append(IDENTITY.image(rgb, input_px))
            statics.append(motion.camera_static)
            scenes.append(str(view.scene_seed))  # as in evaluation
        if not images:
            raise InvalidInputError("no sample can be validated on; the warnings above say why")
        image = np.stack(images).transpose(0, 3, 1, 2).copy()
        flow = torch.from_numpy(np.stack(flows))
        if not (flow.norm(dim=-1) > MOVING).any():
            raise InvalidInputError(
                f"at the {len(kept)} points of each picture that would be validated on, nothing "
                "moves in any sample: validate on more views, or on more points (val_grid)"
            )
        return cls(
            torch.from_numpy(image),
            torch.from_numpy(kept.copy()),
            flow,
            torch.from_numpy(np.stack(valids)),
            torch.tensor(statics),
            np.unique(scenes, return_inverse=True)[1],
        )

    def __len__(self) -> int:
        return len(self.image)


@torch.no_grad()
def predict(
    model: FlowPokeModel,
    views: ValidationSet,
    rows: slice,
    device: torch.device,
    poke_counts: Sequence[int] = (0, 1),
) -> tuple[Tensor, list[GaussianMixture]]:
    """Flow [B, N, 2], and for each count the mixtures [B, N] after so many pokes.

    Pokes are chosen as in evaluation: the longest motion first, the others at random.
    """
    flow = views.flow[rows].to(device)
    n_views, n_points = flow.shape[:2]
    static = views.camera_static[rows].to(device)
    xy = views.xy.to(device).expand(n_views, 1, n_points, 2)
    chosen = _pokes(views, rows, max(poke_counts)).to(device)[..., None].expand(-1, -1, 2)
    poke_xy, poke_flow = xy[:, 0].gather(1, chosen)[:, None], flow.gather(1, chosen)[:, None]
    image = model.encode(to_model_range(views.image[rows].to(device)))
    mixtures = []
    for n_pokes in poke_counts:
        pokes = model.condition(
            image, poke_xy[:, :, :n_pokes], poke_flow[:, :, :n_pokes], None, static
        )
        mixtures.append(model.mixture(model.query(image, pokes, xy))[:, 0])
    return flow, mixtures


def _pokes(views: ValidationSet, rows: slice, n: int) -> Tensor:
    """Indices [B, n] of points to poke, always the same for a view; twice where few are known."""
    chosen = []
    for row in range(len(views))[rows]:
        known = views.valid[row].numpy().nonzero()[0]
        order = choose_pokes(views.flow[row].numpy()[known], n, np.random.default_rng(row))
        chosen.append(np.resize(known[order], n))
    return torch.from_numpy(np.stack(chosen))


def errors_px(
    model: FlowPokeModel,
    views: ValidationSet,
    device: torch.device,
    poke_counts: Sequence[int],
    chunk: int = 8,
) -> list[dict[tuple[str, int], float]]:
    """Errors of each view over "all" and over "moving" points, by number of pokes.

    Defined, and named in a row, as in `measure`, which says more; in one process.
    """
    errors: list[dict[tuple[str, int], float]] = []
    for start in range(0, len(views), chunk):
        rows = slice(start, start + chunk)
        flow, mixtures = predict(model, views, rows, device, poke_counts)
        of_points = {"all": views.valid[rows].to(device), "moving": flow.norm(dim=-1) > MOVING}
        each_px = [REPORT_SIDE_PX * (each.mean() - flow).norm(dim=-1) for each in mixtures]
        errors += [
            {
                (points, n_pokes): float(error_px[i][which[i]].mean())
                for points, which in of_points.items()
                if which[i].any()
                for n_pokes, error_px in zip(poke_counts, each_px, strict=True)
            }
            for i in range(len(flow))
        ]
    return errors


def validate(
    model: FlowPokeModel, views: ValidationSet, device: torch.device, chunk: int = 8
) -> dict[str, float]:
    """Means of what `measure` says over the views of which it says it; NaN if NaN for one."""
    measured = measure(model, views, device, chunk)
    names = dict.fromkeys(name for row in measured for name in row)
    return {name: float(np.mean([row[name] for row in measured if name in row])) for name in names}


def measure(
    model: FlowPokeModel, views: ValidationSet, device: torch.device, chunk: int = 8
) -> list[dict[str, float]]:
    """Measures of each view. Under torch.distributed every process takes a share.

    Errors are in pixels of a 448 px image; moving is what moves by more than `parts.MOVING`.
    `iou_kl/T` is the moving-part IoU when the divergence of the answer with the poke from the
    answer without it is cut at T nats, for views whose camera stands still: otherwise the whole
    picture moves. What is not defined for a view is not there; NaN is an answer that is no number.
    """
    rank, world = 0, 1
    if dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
    was_training = model.training
    model.eval()
    measured: list[dict[str, float]] = []
    for start in range(rank * chunk, len(views), world * chunk):
        rows = slice(start, start + chunk)
        known = views.valid[rows].to(device)
        flow, (before, after) = predict(model, views, rows, device)
        measured += _measure(flow, before, after, known, views.camera_static[rows])
    model.train(was_training)
    if dist.is_initialized():
        gathered: list[list[dict[str, float]] | None] = [None] * world
        dist.all_gather_object(gathered, measured)
        measured = [row for part in gathered for row in part or []]
    return measured


def _measure(
    flow: Tensor,
    before: GaussianMixture,
    after: GaussianMixture,
    valid: Tensor,
    camera_static: Tensor,
) -> list[dict[str, float]]:
    target = flow.to(after.means.dtype)
    length_px = REPORT_SIDE_PX * flow.norm(dim=-1)
    moving = flow.norm(dim=-1) > MOVING
    error_px = REPORT_SIDE_PX * (after.mean() - target).norm(dim=-1)
    std_px = REPORT_SIDE_PX * after.std()
    nll_before, nll_after = -before.log_prob(target), -after.log_prob(target)
    score = after.kl_divergence(before)
    rows = []
    for i, known in enumerate(valid):
        on = moving[i]
        row = {
            "nll/no_poke": nll_before[i][known].mean(),
            "nll/one_poke": nll_after[i][known].mean(),
            "epe_px/all": error_px[i][known].mean(),
            "epe_px/all_if_still": length_px[i][known].mean(),
        }
        if on.any():
            row["nll/one_poke_moving"] = nll_after[i][on].mean()
            row["epe_px/moving"] = error_px[i][on].mean()
            row["epe_px/moving_if_still"] = length_px[i][on].mean()
        std_and_error = torch.stack([std_px[i][known], error_px[i][known]])
        if not (std_and_error.amin(dim=1) == std_and_error.amax(dim=1)).any():
            row["std_error_correlation"] = torch.corrcoef(std_and_error)[0, 1]
        for threshold in KL_THRESHOLDS_NATS if camera_static[i] else ():
            found = (score[i] > threshold) & known
            if (found | on).any():
                row[f"iou_kl/{threshold:g}"] = (found & on).sum() / (found | on).sum()
        rows.append({name: float(value) for name, value in row.items()})
    return rows
