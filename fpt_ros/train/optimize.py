"""Learning rate, optimizer and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fpt_ros.core.encoder import VitBlock
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.transformer import Layer, TokenEmbedding
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
) -> torch.optim.Optimizer | Optimizers:
    """AdamW, for hidden matrices Muon if so configured; matrices decay, other parameters do not.

    Raises InvalidInputError if this PyTorch has no Muon.
    """
    by_muon = _hidden_matrices(objective.model) if config.optimizer == "muon" else set()
    last = {id(parameter) for parameter in objective.model.out_mlp[-1].parameters()}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            rate = config.learning_rate
            if name.startswith("model.image_embedder."):
                rate *= config.encoder_rate
            elif id(parameter) in last:
                rate *= config.head_rate
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            key = (id(parameter) in by_muon, rate, decay)
            groups.setdefault(key, []).append(parameter)

    def listed(muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "peak_rate": rate, "weight_decay": decay}
            for (is_muon, rate, decay), parameters in groups.items()
            if is_muon == muon
        ]

    adamw = torch.optim.AdamW(
        listed(muon=False),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=device.type in ("cpu", "cuda"),
    )
    if not by_muon:
        return adamw
    if not hasattr(torch.optim, "Muon"):
        raise InvalidInputError(f"--optimizer muon needs PyTorch 2.9, not {torch.__version__}")
    muon = torch.optim.Muon(
        listed(muon=True), lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"
    )
    return Optimizers(adamw, muon)


def _hidden_matrices(model: FlowPokeModel) -> set[int]:
    """Ids of the matrices between activations: those of the blocks, embeddings and the head."""
    stacks = [m for m in model.modules() if isinstance(m, VitBlock | Layer | TokenEmbedding)]
    return {
        id(parameter)
        for stack in (*stacks, *model.out_mlp[:-1].children())
        for name, parameter in stack.named_parameters()
        if parameter.ndim == 2 and "norm" not in name  # gains depend on one of two conditions
    }


class Optimizers:
    """Optimizers for different parameters, as if they were one."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all optimizers; to be changed in place."""
        return [group for each in self._optimizers for group in each.param_groups]

    def step(self) -> None:
        """Step all."""
        for each in self._optimizers:
            each.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all."""
        for each in self._optimizers:
            each.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """All states, in order."""
        return {"optimizers": [each.state_dict() for each in self._optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError or LookupError if it does not fit."""
        for each, own in zip(self._optimizers, state["optimizers"], strict=True):
            each.load_state_dict(own)


Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Moving average whose memory grows with the run, so that the random start is forgotten."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update
