"""The query-causal objective: negative log-likelihood of motion under nested sets of pokes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.batches import Batch

REPORT_SIDE_PX = 448
"""Errors are reported in pixels of an image this wide, the size the published model works at."""


def to_model_range(image: Tensor) -> Tensor:
    """uint8 [..., 3, S, S] to float32 in [-1, 1]."""
    return image.float() / 127.5 - 1


class Objective(nn.Module):
    """Model and loss in one module, so that a data-parallel wrapper sees a single forward pass."""

    def __init__(self, model: FlowPokeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of -log p(flow) over views, outcomes, nested sets and queries; detached measures.

        Group g of the queries is answered from the first g pokes alone (Flow Poke Transformer,
        training objective); every group and query weighs the same.
        """
        raw = self.model(
            to_model_range(batch.image),
            batch.poke_xy,
            batch.poke_flow,
            batch.query_xy,
            batch.camera_static,
        )
        mixture = self.model.mixture(raw)
        nll = -mixture.log_prob(batch.query_flow.to(mixture.means.dtype))
        return nll.mean(), _measures(mixture, nll.detach(), batch)


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
