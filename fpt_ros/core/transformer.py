"""The poke transformer: tokens for pokes and queries, self attention, attention to the image.

Every token, poke or query, attends to the pokes it may see and to itself; nothing else. So self
attention is a softmax over (visible pokes + 1) entries, and the keys of pokes can be cached.
Tokens have the shape [B, C, N, width]: image, candidate, token. Pokes come before queries.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend
from .config import TransformerConfig

_EPS = 1e-6


def _accurate(x: Tensor) -> Tensor:
    """At least float32: sums and trigonometric arguments do not survive bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Rotation(NamedTuple):
    """Rotary position code, both [..., N, heads, d_head]: x * cos + (x, halves swapped) * sin."""

    cos: Tensor
    sin: Tensor


class RotaryCode(nn.Module):
    """2-D rotary position code with log-spaced frequencies that differ between heads."""

    def __init__(self, heads: int, d_head: int) -> None:
        super().__init__()
        n_freqs = heads * d_head // 4
        exponents = torch.linspace(math.log(math.pi), math.log(10 * math.pi), n_freqs + 1)[:-1]
        per_head = exponents.exp().view(d_head // 4, heads).T
        self.freqs = nn.Parameter(per_head.repeat(2, 1, 1), requires_grad=False)

    def forward(self, xy: Tensor) -> Rotation:
        """Angles at positions xy [..., N, 2] in the unit square."""
        with torch.autocast(xy.device.type, enabled=False):
            centred = (2 * _accurate(xy) - 1)[..., None, None, :]
            freqs = _accurate(self.freqs)
            theta = torch.cat([centred[..., 1] * freqs[1], centred[..., 0] * freqs[0]], dim=-1)
            cos, sin = theta.cos(), theta.sin()
            return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


def _squared_length(x: Tensor) -> Tensor:
    """Sum of squares over the last axis, kept; a fused reduction, unlike x.square().sum()."""
    return torch.linalg.vector_norm(_accurate(x), dim=-1, keepdim=True).square()


def _cosine_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Factor [..., heads, 1] that gives each head's vector x [..., heads, d_head] its length."""
    length = torch.sqrt(_accurate(scale).abs() + _EPS)[:, None]
    return length * torch.rsqrt(_squared_length(x) + _EPS)


def _rotate(x: Tensor, factor: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each head's vector x [..., N, heads, d_head] by its position, times `factor`."""
    wide = _accurate(x) * factor
    swapped = wide.roll(wide.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * rotation.cos, swapped, rotation.sin).to(x.dtype)


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Root-mean-square norm times `gain`, broadcast against x [B, C, N, width]."""
    inverse = torch.rsqrt(_squared_length(x) / x.shape[-1] + _EPS)
    return (_accurate(x) * inverse * gain).to(x.dtype)


class _AdaptiveNorm(nn.Module):
    """Holds the matrix that turns the condition vector into the gain of a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, condition: Tensor) -> Tensor:
        return 1 + self.linear(condition)


class PokeKeys(NamedTuple):
    """Self-attention keys and values of pokes in one layer, each [B, C, heads, P, d_head]."""

    k: Tensor
    v: Tensor

    def append(self, k: Tensor, v: Tensor) -> PokeKeys:
        """Put those of more pokes behind these."""
        return PokeKeys(torch.cat([self.k, k], dim=-2), torch.cat([self.v, v], dim=-2))

    def reserve(self, n: int) -> BufferedPokeKeys:
        """The same with room for n more pokes."""
        *batch, n_pokes, d_head = self.k.shape
        buffers = PokeKeys(*self.k.new_empty(2, *batch, n_pokes + n, d_head))
        return BufferedPokeKeys.within(buffers, 0).append(self.k, self.v)


class BufferedPokeKeys(PokeKeys):
    """The first ones in buffers with room for more, which `append` does not need to copy."""

    buffers: PokeKeys

    @classmethod
    def within(cls, buffers: PokeKeys, n_pokes: int) -> BufferedPokeKeys:
        """Those of the first pokes in the buffers."""
        keys = cls(*(buffer[..., :n_pokes, :] for buffer in buffers))
        keys.buffers = buffers
        return keys

    def append(self, k: Tensor, v: Tensor) -> BufferedPokeKeys:
        """Put those of more pokes behind these, in place. Raises RuntimeError without room."""
        start, end = self.k.shape[-2], self.k.shape[-2] + k.shape[-2]
        for buffer, new in zip(self.buffers, (k, v), strict=True):
            buffer[..., start:end, :] = new
        return self.within(self.buffers, end)


class ImageKeys(NamedTuple):
    """Cross-attention keys and values of one layer, each [B, heads, S, d_head]."""

    k: Tensor
    v: Tensor


class Layer(nn.Module):
    """Self attention, cross attention to the image, gated feed-forward; no biases."""

    def __init__(self, config: TransformerConfig, image_channels: int) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.heads, self.d_head = heads, config.d_head
        self.self_scale = nn.Parameter(torch.full((heads,), 10.0))
        self.cross_scale = nn.Parameter(torch.full((heads,), 10.0))
        self.self_norm = _AdaptiveNorm(width)
        self.cross_norm = _AdaptiveNorm(width)
        self.ffn_norm = _AdaptiveNorm(width)
        self.self_qkv = nn.Linear(width, 3 * width, bias=False)
        self.self_out = nn.Linear(width, width, bias=False)
        self.cross_q = nn.Linear(width, width, bias=False)
        self.cross_kv = nn.Linear(image_channels, 2 * width, bias=False)
        self.cross_out = nn.Linear(width, width, bias=False)
        self.project_cross = config.project_cross
        self.cross_out.requires_grad_(config.project_cross)
        self.ffn_up = nn.Linear(width, 2 * config.ff_expand * width, bias=False)
        self.ffn_down = nn.Linear(config.ff_expand * width, width, bias=False)
        for linear in (self.self_out, self.cross_out, self.ffn_down):
            nn.init.zeros_(linear.weight)

    def gains(self, conditions: Tensor) -> Tensor:
        """Gains of the three norms for condition vectors [n, width]: [3, n, width]."""
        norms = (self.self_norm, self.cross_norm, self.ffn_norm)
        return torch.stack([norm(conditions) for norm in norms])

    def image_keys(self, tokens: Tensor, rotation: Rotation) -> ImageKeys:
        """Keys and values of image tokens [B, S, channels]."""
        kv = self.cross_kv(tokens).unflatten(-1, (2, self.heads, self.d_head))
        k, v = kv.unbind(-3)
        k = _rotate(k, _cosine_scale(k, self.cross_scale), rotation)
        return ImageKeys(k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous())

    def forward(
        self,
        x: Tensor,
        n_pokes: int,
        past: PokeKeys,
        visible: Tensor,
        image: ImageKeys,
        gains: Tensor,
        rotation: Rotation,
    ) -> tuple[Tensor, PokeKeys]:
        """Transform tokens x [B, C, N, width], of which the first n_pokes are new pokes.

        visible: bool [B or 1, C or 1, N or 1, P_past + n_pokes], the pokes each token sees beside
        itself. gains: [3, B, 1, 1, width]. Returns the tokens and the keys of all pokes.
        """
        mixed, pokes = self._self_attention(
            _rms_norm(x, gains[0]), n_pokes, past, visible, rotation
        )
        x = x + self.self_out(mixed)
        x = x + self._cross_attention(_rms_norm(x, gains[1]), image, rotation)
        value, gate = self.ffn_up(_rms_norm(x, gains[2])).chunk(2, dim=-1)
        return x + self.ffn_down(value * F.silu(gate)), pokes

    def _self_attention(
        self, h: Tensor, n_pokes: int, past: PokeKeys, visible: Tensor, rotation: Rotation
    ) -> tuple[Tensor, PokeKeys]:
        if n_pokes == 0 and past.k.shape[-2] == 0:
            # A token alone attends to itself only: queries and keys do not matter.
            return F.linear(h, self.self_qkv.weight[-h.shape[-1] :]), past
        qkv = self.self_qkv(h).unflatten(-1, (3, self.heads, self.d_head))
        q, k, v = qkv.unbind(-3)
        q_scale, k_scale = _cosine_scale(q, self.self_scale), _cosine_scale(k, self.self_scale)
        # Seen from its own position a token is not rotated at all.
        to_self = (q * k).sum(-1, keepdim=True) * (q_scale * k_scale)
        q, v = _rotate(q, q_scale, rotation).transpose(2, 3), v.transpose(2, 3)
        pokes = past
        if n_pokes:
            here = Rotation(rotation.cos[..., :n_pokes, :, :], rotation.sin[..., :n_pokes, :, :])
            new_k = _rotate(k[..., :n_pokes, :, :], k_scale[..., :n_pokes, :, :], here)
            pokes = past.append(new_k.transpose(2, 3), v[..., :n_pokes, :])
        to_pokes = (q @ pokes.k.transpose(-1, -2)).masked_fill(~visible.unsqueeze(2), -torch.inf)
        logits = torch.cat([to_pokes, to_self.transpose(2, 3)], dim=-1)
        weights = logits.softmax(-1).to(v.dtype)
        mixed = torch.addcmul(weights[..., :-1] @ pokes.v, weights[..., -1:], v)
        return mixed.transpose(2, 3).flatten(-2), pokes

    def _cross_attention(self, h: Tensor, image: ImageKeys, rotation: Rotation) -> Tensor:
        q = self.cross_q(h).unflatten(-1, (self.heads, self.d_head))
        q = _rotate(q, _cosine_scale(q, self.cross_scale), rotation)
        # All candidates look at the same image: fold them into the query axis.
        q = q.flatten(1, 2).transpose(1, 2)
        mixed = attend(q, image.k, image.v, scale=1.0)
        mixed = mixed.transpose(1, 2).reshape(h.shape)
        return self.cross_out(mixed) if self.project_cross else mixed


class Transformer(nn.Module):
    """The stack of layers and the rotary code they share."""

    def __init__(self, config: TransformerConfig, image_channels: int) -> None:
        super().__init__()
        self.pos_emb = RotaryCode(config.heads, config.d_head)
        self.layers = nn.ModuleList(Layer(config, image_channels) for _ in range(config.depth))

    def _stack(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))

    def gains(self, conditions: Tensor) -> Tensor:
        """Gains of all norms for condition vectors [n, width]: [depth, 3, n, width]."""
        return torch.stack([layer.gains(conditions) for layer in self._stack()])

    def image_keys(self, tokens: Tensor, token_xy: Tensor) -> tuple[ImageKeys, ...]:
        """Cross-attention keys of every layer for tokens [B, S, channels] at token_xy [S, 2]."""
        rotation = self.pos_emb(token_xy)
        return tuple(layer.image_keys(tokens, rotation) for layer in self._stack())

    def forward(
        self,
        x: Tensor,
        xy: Tensor,
        n_pokes: int,
        past: tuple[PokeKeys, ...],
        visible: Tensor,
        image: tuple[ImageKeys, ...],
        gains: Tensor,
    ) -> tuple[Tensor, tuple[PokeKeys, ...]]:
        """Run all layers on tokens x [B, C, N, width] at xy [B, C, N, 2]; see `Layer.forward`."""
        rotation = self.pos_emb(xy)
        keys = []
        for layer, past_keys, image_keys, layer_gains in zip(
            self._stack(), past, image, gains, strict=True
        ):
            x, poke_keys = layer(x, n_pokes, past_keys, visible, image_keys, layer_gains, rotation)
            keys.append(poke_keys)
        return x, tuple(keys)


class RmsNorm(nn.RMSNorm):
    """Root-mean-square norm in the dtype of its gain, so in float32 under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return super().forward(x.to(self.weight.dtype))


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class TokenEmbedding(nn.Module):
    """Embeds what is known at a point: its image features and, for a poke, its flow."""

    coeffs: Tensor

    def __init__(self, width: int, image_channels: int) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.empty(1, 1, 2 * width))
        nn.init.trunc_normal_(self.query_token, std=1.0)
        harmonics = 2 * math.pi * torch.arange(1, width // 2 + 1)
        self.register_buffer("coeffs", harmonics.view(1, 1, 1, -1))

        def block() -> nn.Module:
            return _Residual(
                RmsNorm(width),  # with the default epsilon, that of the dtype
                nn.Linear(width, width, bias=False),
                nn.SiLU(),
                nn.Linear(width, width, bias=False),
            )

        first = nn.Linear(2 * width + image_channels, width, bias=False)
        self.mlp = nn.Sequential(first, block(), block())

    def _flow_features(self, flow: Tensor) -> Tensor:
        """Harmonics of the squashed flow [B, C, P, 2]: [B, C, P, 2 * width]."""
        angles = (torch.tanh(0.5 * _accurate(flow)).unsqueeze(-1) + 1) / 2 * self.coeffs
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)

    def forward(self, image: Tensor, poke_flow: Tensor) -> Tensor:
        """Tokens [B, C, N, width] from image features [B, C, N, channels] at their positions.

        The first P tokens are pokes with poke_flow [B, C, P, 2], the rest are queries.
        """
        # The first linear map is applied by parts: what a query knows of its flow is constant.
        weight = cast("nn.Linear", self.mlp[0]).weight
        flow_weight, image_weight = weight.split([self.query_token.shape[-1], image.shape[-1]], 1)
        features = self._flow_features(poke_flow)
        pokes = F.linear(features.to(weight.dtype), flow_weight)
        query = F.linear(self.query_token, flow_weight)
        batch, candidates, length, _ = image.shape
        queries = query.expand(batch, candidates, length - poke_flow.shape[2], -1)
        x = F.linear(image.to(weight.dtype), image_weight) + torch.cat([pokes, queries], dim=2)
        return self.mlp[2](self.mlp[1](x))


class PokeReference(nn.Module):
    """Chooses, softly, the poke that a point follows.

    A point near a poke mostly moves like it, so mean motions are easier to learn as a turned and
    scaled copy of that poke's flow than from nothing. The choice is attention with a learned
    penalty on distance, among the visible pokes and the option to follow none. In float32 under
    autocast, too.
    """

    D_KEY = 32

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, self.D_KEY, bias=False)
        self.key = nn.Linear(width, self.D_KEY, bias=False)
        self.falloff = nn.Parameter(torch.tensor(5.0))  # nats per side of the unit square
        self.follow_none = nn.Parameter(torch.tensor(-4.0))

    def keys_of(self, x: Tensor) -> Tensor:
        """Keys [B, C, N, D_KEY] of pokes with tokens x [B, C, N, width]."""
        with torch.autocast(x.device.type, enabled=False):
            return cast("Tensor", self.key(x.to(self.key.weight.dtype)))

    def forward(
        self, x: Tensor, xy: Tensor, keys: Tensor, poke_xy: Tensor, flow: Tensor, visible: Tensor
    ) -> Tensor:
        """Flow [B, C, Q, 2] that points with tokens x [B, C, Q, width] at xy [B, C, Q, 2] follow.

        keys [B, C, P, D_KEY], poke_xy and flow [B, C, P, 2], visible [B, C, Q or 1, P]. Zero
        where no poke is visible.
        """
        # A flow that is rounded to bfloat16 is off by up to 0.4 %.
        with torch.autocast(x.device.type, enabled=False):
            query = self.query(x.to(self.query.weight.dtype)) / math.sqrt(self.D_KEY)
            offset = xy.unsqueeze(-2) - poke_xy.unsqueeze(-3)
            distance = (offset.square().sum(-1) + _EPS).sqrt()
            logits = query @ keys.transpose(-1, -2) - self.falloff * distance
            logits = logits.masked_fill(~visible, -torch.inf)
            none = self.follow_none.expand(*logits.shape[:-1], 1)
            weights = torch.cat([logits, none], dim=-1).softmax(-1)
            return weights[..., :-1] @ flow
