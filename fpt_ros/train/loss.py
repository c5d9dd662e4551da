"""The query-causal objective: negative log-likelihood of motion under nested sets of pokes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpt_ros.core.encoder import sample_maps
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.data.samples import REPORT_SIDE_PX
from fpt_ros.train.batches import Batch


def to_model_range(image: Tensor) -> Tensor:
    """uint8 [..., 3, S, S] to float32 in [-1, 1]."""
    return image.float() / 127.5 - 1


class PartLoss(nn.Module):
    """Which points belong to the same movable part: supervision for every pair of points.

    The objective says of a few queries where they go; this says of the features that the queries
    and pokes start from what they have to tell apart, which is learned from far fewer images. Used
    in training only; checkpoints do not hold it.
    """

    WIDTH = 32

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, self.WIDTH, bias=False)
        self.movable = nn.Linear(channels, 1)
        self.sharpness = nn.Parameter(torch.tensor(6.0))
        self.same_bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, features: Tensor, part: Tensor) -> Tensor:
        """Mean of the two losses for features [V, N, channels] and part ids [V, N] (0: the world).

        Points of the world differ from those of parts, but among each other say nothing. Means over
        the pairs of a view, then over views, so that a batch may be taken in pieces.
        """
        movable = part > 0
        with torch.autocast(features.device.type, enabled=False):
            embedding = F.normalize(self.embed(features), dim=-1)
            logits = self.sharpness * embedding @ embedding.transpose(1, 2) + self.same_bias
            is_movable = F.binary_cross_entropy_with_logits(
                self.movable(features).squeeze(-1), movable.float()
            )
        same = part[:, :, None] == part[:, None]
        telling = movable[:, :, None] | movable[:, None]
        telling &= ~torch.eye(part.shape[1], dtype=torch.bool, device=part.device)
        each = F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none")
        pairs = [
            ((each * chosen).sum((1, 2)) / chosen.sum((1, 2)).clamp(min=1)).mean()
            for chosen in (telling & same, telling & ~same)
        ]
        return sum(pairs, is_movable) / 2


class Objective(nn.Module):
    """Model and loss in one module, so that a data-parallel wrapper sees a single forward pass."""

    def __init__(self, model: FlowPokeModel, part_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.part_weight = part_weight
        channels = model.image_embedder.map_channels
        self.part_loss = PartLoss(channels) if part_weight else None

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of -log p(flow) over views, outcomes, nested sets and queries; detached measures.

        Group g of the queries is answered from the first g pokes alone (Flow Poke Transformer,
        training objective); every group and query weighs the same. `part_weight` times the part
        loss is added.
        """
        context = self.model.encode(to_model_range(batch.image))
        raw = self.model.nested(
            context, batch.poke_xy, batch.poke_flow, batch.query_xy, batch.camera_static
        )
        mixture = self.model.mixture(raw)
        nll = -mixture.log_prob(batch.query_flow.to(mixture.means.dtype))
        measures = _measures(mixture, nll.detach(), batch)
        if self.part_loss is None:
            return nll.mean(), measures
        align = self.model.image_embedder.align_corners
        features = sample_maps(context.maps, batch.part_xy[:, None], align)[:, 0]
        part_loss = self.part_loss(features, batch.part)
        measures["part"] = part_loss.detach()
        return nll.mean() + self.part_weight * part_loss, measures


@torch.no_grad()
def _measures(mixture: GaussianMixture, nll: Tensor, batch: Batch) -> dict[str, Tensor]:
    error_px = REPORT_SIDE_PX * (mixture.mean() - batch.query_flow).norm(dim=-1)
    moving = batch.query_moves[:, :, 1]
    return {
        "nll/no_poke": nll[:, :, 0].mean(),
        "nll/one_poke": nll[:, :, 1].mean(),
        "nll/all_pokes": nll[:, :, -1].mean(),
        "epe_px/one_poke": error_px[:, :, 1].mean(),
        "epe_px/one_poke_moving": (error_px[:, :, 1] * moving).sum() / moving.sum().clamp(min=1),
    }
