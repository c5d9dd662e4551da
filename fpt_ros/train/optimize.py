"""Learning rate, optimizer and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fpt_ros.train.config import TrainConfig
from fpt_ros.train.loss import Objective


def learning_rate_factor(progress: float, warmup: float, schedule: str = "cosine") -> float:
    """Linear rise over the first `warmup` of the run, then the schedule, up to progress 1.

    cosine: to zero. thirds: halved after each third of the whole run.
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "thirds":
        return 0.5 ** min(2, int(3 * progress))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def build_optimizer(
    objective: Objective, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW; matrices decay, gains, biases and other vectors do not."""
    last = {id(parameter) for parameter in objective.model.out_mlp[-1].parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            rate = config.learning_rate
            if name.startswith("model.image_embedder."):
                rate *= config.encoder_rate
            elif id(parameter) in last:
                rate *= config.head_rate
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "peak_rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=device.type in ("cpu", "cuda"),
    )


Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Moving average whose memory grows with the run, so that the random start is forgotten."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update
