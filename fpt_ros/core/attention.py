"""Softmax attention, by what is fastest where it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Values [..., N, d] for queries [..., N, d], from keys and values [..., S, d].

    scale: of the products of queries and keys; by default one over the root of d.
    """
    is_trained = torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v))
    if q.device.type != "cpu" or not is_trained:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    # On CPUs the backward pass of fused attention costs more than plain matrix products.
    logits = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-1, -2)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.softmax(-1, dtype=dtype).to(v.dtype) @ v
