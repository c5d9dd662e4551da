"""The network written down plainly: what every speed is compared with.

Pokes and queries form one sequence under a dense mask, the keys of the image are computed in every
call, a call answers one set of pokes, and everything is eager and in the dtype of the weights. The
weights are those of a `FlowPokeModel`; its attention, norms and embedding of tokens are not used,
so that the two can be compared. Tensors have no batch axis.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fpt_ros.core.encoder import ImageFeatures
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.transformer import Layer

_EPS = 1e-6


class Past(NamedTuple):
    """What is cached of L pokes while points are sampled one after the other."""

    keys: tuple[tuple[Tensor, Tensor], ...]  # per layer: keys and values [heads, L, d_head]
    xy: Tensor  # [L, 2]
    flow: Tensor  # [L, 2], in the units of the head
    tokens: Tensor  # [L, width], after the last layer


class PlainModel:
    """The same answers as the `FlowPokeModel` whose weights it borrows, without its economies.

    The camera stands still.
    """

    def __init__(self, model: FlowPokeModel) -> None:
        self._model = model

    @torch.inference_mode()
    def encode(self, image: Tensor) -> ImageFeatures:
        """Features of one image [1, 3, H, W] in [-1, 1]."""
        return self._model.image_embedder(image)

    def predict(
        self, features: ImageFeatures, poke_xy: Tensor, poke_flow: Tensor, points: Tensor
    ) -> Tensor:
        """Raw mixture parameters [Q, 6K] at points [Q, 2] given pokes [P, 2]."""
        return self.advance(features, None, poke_xy, poke_flow, points)[1]

    @torch.inference_mode()
    def advance(
        self,
        features: ImageFeatures,
        past: Past | None,
        poke_xy: Tensor,
        poke_flow: Tensor,
        points: Tensor,
    ) -> tuple[Past, Tensor]:
        """Append pokes [P, 2] to past ones, and answer at points [Q, 2].

        This is a step of joint sampling, with one poke and one point, as the published network
        makes it: the keys of past pokes are cached, those of the image are not.
        """
        model = self._model
        n_past = 0 if past is None else len(past.xy)
        n_pokes, n_points = len(poke_xy), len(points)
        n_new, n_total = n_pokes + n_points, n_past + n_pokes + n_points
        flow = poke_flow * model.config.head.flow_scale
        row, column = torch.arange(n_past, n_total)[:, None], torch.arange(n_total)
        sees_poke = (column <= row) & (column < n_past + n_pokes)
        mask = (sees_poke | (column == row)).to(points.device)  # dense, [n_new, n_total]

        xy = torch.cat([poke_xy, points])
        x = self._embed(features, xy, flow)
        turn, image_turn = self._angles(xy), self._angles(features.token_xy)
        condition = model.cond_emb.weight[1]
        keys = []
        for i, layer in enumerate(cast("list[Layer]", list(model.transformer.layers))):
            heads = layer.heads
            h = _norm(x) * layer.self_norm(condition)
            q, k, v = (_split(each, heads) for each in layer.self_qkv(h).chunk(3, dim=-1))
            q, k = (_rotated(_cosine(each, layer.self_scale), turn) for each in (q, k))
            if past is not None:
                k, v = (torch.cat(both, 1) for both in zip(past.keys[i], (k, v), strict=True))
            keys.append((k[:, : n_total - n_points], v[:, : n_total - n_points]))
            x = x + layer.self_out(_merge(_attend(q, k, v, mask)))

            h = _norm(x) * layer.cross_norm(condition)
            k, v = (_split(each, heads) for each in layer.cross_kv(features.tokens[0]).chunk(2, -1))
            k = _rotated(_cosine(k, layer.cross_scale), image_turn)
            q = _rotated(_cosine(_split(layer.cross_q(h), heads), layer.cross_scale), turn)
            mixed = _merge(_attend(q, k, v))
            x = x + (layer.cross_out(mixed) if layer.project_cross else mixed)

            value, gate = layer.ffn_up(_norm(x) * layer.ffn_norm(condition)).chunk(2, dim=-1)
            x = x + layer.ffn_down(value * F.silu(gate))

        new = Past(tuple(keys), poke_xy, flow, x[:n_pokes])
        if past is not None:
            new = Past(new.keys, *(torch.cat(both) for both in zip(past[1:], new[1:], strict=True)))
        seen_by_points = mask[n_new - n_points :, : n_total - n_points]
        return new, self._head(x[n_pokes:], points, new, seen_by_points)

    def _embed(self, features: ImageFeatures, xy: Tensor, poke_flow: Tensor) -> Tensor:
        """Tokens [P + Q, width] of pokes with these flows [P, 2] and of queries, at xy."""
        embedding = self._model.input_mlp
        angles = ((torch.tanh(poke_flow / 2) + 1) / 2)[..., None] * embedding.coeffs[0, 0]
        of_pokes = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        of_queries = embedding.query_token[0].expand(len(xy) - len(poke_flow), -1)
        grid, align = (2 * xy - 1)[None, None], self._model.image_embedder.align_corners
        of_image = [
            F.grid_sample(each, grid, padding_mode="border", align_corners=align)[0, :, 0].T
            for each in features.maps
        ]
        return embedding.mlp(torch.cat([torch.cat([of_pokes, of_queries]), *of_image], dim=-1))

    def _angles(self, xy: Tensor) -> Tensor:
        """Rotary angles [heads, L, d_head / 2]."""
        of_x, of_y = self._model.transformer.pos_emb.freqs[:, :, None]  # [heads, 1, d_head / 4]
        x, y = (2 * xy - 1)[:, :, None].unbind(1)
        return torch.cat([y * of_y, x * of_x], dim=-1)

    def _head(self, x: Tensor, points: Tensor, pokes: Past, visible: Tensor) -> Tensor:
        """Raw mixture parameters [Q, 6K] of queries with tokens x [Q, width]."""
        raw = self._model.out_mlp(x)
        reference = self._model.poke_reference
        if reference is None:
            return raw
        n = self._model.config.head.n_components
        logits, means, entries, along, across = raw.split([n, 2 * n, 3 * n, n, n], dim=-1)
        followed = reference(x, points, reference.key(pokes.tokens), pokes.xy, pokes.flow, visible)
        fx, fy = followed[:, :1], followed[:, 1:]
        turned = torch.stack([along * fx - across * fy, along * fy + across * fx], dim=-1)
        return torch.cat([logits, means + turned.flatten(1), entries], dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=1.0)[0]


def _norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)


def _cosine(x: Tensor, scale: Tensor) -> Tensor:
    """Vectors [heads, L, d_head] with their length set by the head's scale [heads]."""
    length = (scale.abs() + _EPS).sqrt()[:, None, None]
    return x * length * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPS)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pair (j, j + d_head / 2) of every vector by the j-th angle."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _split(x: Tensor, heads: int) -> Tensor:
    """[L, width] to [heads, L, d_head]."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def _merge(x: Tensor) -> Tensor:
    """[heads, L, d_head] to [L, width]."""
    return x.transpose(0, 1).flatten(1)
