"""The flow poke transformer: image, pokes and query points in, mixture parameters out.

Inference runs in the three stages in which the data changes: `encode` once per image,
`condition` once per set of pokes, `query` once per set of points. `forward` is the training pass.
All of them share one code path, `_advance`.

Positions and flows are in the unit square of the image (x right, y down; [0, 1] spans the image,
points outside are legal). Parameters stay in float32; use torch.autocast for bfloat16: the
harmonics of flows, the rotary code and the head are computed in float32 either way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .config import DinoEncoderConfig, ModelConfig
from .encoder import DinoEncoder, PyramidEncoder, sample_maps
from .errors import InvalidInputError
from .mixture import GaussianMixture, displacement_mixture
from .transformer import ImageKeys, PokeKeys, PokeReference, RmsNorm, TokenEmbedding, Transformer


@dataclass(frozen=True)
class ImageContext:
    """All that depends on the image alone, for a batch of B images."""

    maps: tuple[Tensor, ...]  # each [B, channels, h, w]
    keys: tuple[ImageKeys, ...]  # per layer
    gains: Tensor  # [depth, 3, 2, width], norm gains for a moving (0) and a static (1) camera


@dataclass(frozen=True)
class PokeContext:
    """All that depends on the pokes, for B images and C candidate sets of up to P pokes each."""

    keys: tuple[PokeKeys, ...]  # per layer
    visible: Tensor  # [B, C, P] bool, false where a slot is padding
    gains: Tensor  # [depth, 3, B, 1, 1, width]
    xy: Tensor  # [B, C, P, 2]
    flow: Tensor  # [B, C, P, 2], in the units of the head
    reference_keys: Tensor  # [B, C, P, d_key], d_key is 0 unless the head is relative to pokes


class FlowPokeModel(nn.Module):
    """Predicts where points of an image go when other points are poked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        n, relative = config.head.n_components, config.head.poke_relative
        self.image_embedder = (
            DinoEncoder(config.encoder)
            if isinstance(config.encoder, DinoEncoderConfig)
            else PyramidEncoder(config.encoder)
        )
        self.cond_emb = nn.Embedding(2, width)
        self.input_mlp = TokenEmbedding(width, self.image_embedder.map_channels)
        self.transformer = Transformer(config.transformer, self.image_embedder.token_channels)
        self.out_mlp = nn.Sequential(
            RmsNorm(width, eps=1e-6),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            last := nn.Linear(width, 8 * n if relative else 6 * n),
        )
        self.poke_reference = PokeReference(width) if relative else None
        if relative:
            # Start from components that range from "stays" to "moves like the poke".
            with torch.no_grad():
                last.bias[6 * n : 7 * n] = torch.linspace(0, 1, n)

    def encode(self, image: Tensor) -> ImageContext:
        """Encode float RGB images [B, 3, H, W] in [-1, 1]; any size, the centre square is used.

        Raises InvalidInputError on another shape or an integer dtype.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise InvalidInputError(
                "image must be a float tensor [B, 3, H, W] with values in [-1, 1], "
                f"got {image.dtype} {list(image.shape)}"
            )
        features = self.image_embedder(image)
        return ImageContext(
            features.maps,
            self.transformer.image_keys(features.tokens, features.token_xy),
            self.transformer.gains(self.cond_emb.weight),
        )

    def condition(
        self,
        image: ImageContext,
        poke_xy: Tensor,
        poke_flow: Tensor,
        poke_counts: Tensor | None = None,
        camera_static: Tensor | None = None,
    ) -> PokeContext:
        """Take in C candidate sets of pokes: poke_xy and poke_flow [B, C, P, 2]; P may be 0.

        Pokes are ordered: each sees the ones before it. poke_counts [B, C] says how many of the P
        slots each candidate uses (default: all). camera_static: bool [B] (default: all static).
        Raises InvalidInputError on mismatched shapes.
        """
        context = self._no_pokes(image, poke_xy, camera_static)
        return self._advance(image, context, poke_xy, poke_flow, poke_counts, None)[0]

    def extend(
        self,
        image: ImageContext,
        pokes: PokeContext,
        poke_xy: Tensor,
        poke_flow: Tensor,
        points: Tensor | None = None,
    ) -> tuple[PokeContext, Tensor]:
        """Append pokes [B, C, P, 2] to a context and query points [B, C, Q, 2] in the same pass.

        Gives what `condition` with all pokes and `query` would, at the cost of the new tokens
        only. Returns the longer context and the raw head [B, C, Q, 6K] (Q = 0 without points).
        """
        return self._advance(image, pokes, poke_xy, poke_flow, None, points)

    @staticmethod
    def reserve(pokes: PokeContext, n: int) -> PokeContext:
        """The same context with room for n more pokes; `extend` then copies no keys.

        What `extend` returns lies in that room too, so extend a context with room only once.
        """
        return replace(pokes, keys=tuple(keys.reserve(n) for keys in pokes.keys))

    def query(self, image: ImageContext, pokes: PokeContext, points: Tensor) -> Tensor:
        """Raw mixture parameters [B, C, Q, 6K] at points [B, C, Q, 2]; see `mixture`.

        Queries do not see each other. Raises InvalidInputError on mismatched shapes.
        """
        none = points[:, :, :0]
        return self._advance(image, pokes, none, none, None, points)[1]

    def mixture(self, raw: Tensor, dtype: torch.dtype = torch.float64) -> GaussianMixture:
        """Distributions of the displacement, in units of the unit square, from raw [..., 6K]."""
        return displacement_mixture(raw, self.config.head, dtype)

    def forward(
        self,
        image: Tensor,
        poke_xy: Tensor,
        poke_flow: Tensor,
        query_xy: Tensor,
        camera_static: Tensor,
    ) -> Tensor:
        """Nested training sets in one pass: `encode`, then `nested`."""
        return self.nested(self.encode(image), poke_xy, poke_flow, query_xy, camera_static)

    def nested(
        self,
        context: ImageContext,
        poke_xy: Tensor,
        poke_flow: Tensor,
        query_xy: Tensor,
        camera_static: Tensor,
    ) -> Tensor:
        """Nested training sets in one pass: query group g sees pokes 0 .. g-1.

        B images, pokes [B, L, 2], query_xy [B, G, n, 2] with G <= L + 1, camera_static bool [B].
        Returns the raw head [B, G, n, 6K]. Several outcomes C of the same image share its
        encoding: pokes [B, C, L, 2], query_xy [B, C, G, n, 2], result [B, C, G, n, 6K].
        """
        if poke_xy.ndim == 3:
            each = (poke_xy[:, None], poke_flow[:, None], query_xy[:, None])
            return self.nested(context, *each, camera_static).squeeze(1)
        groups, n = query_xy.shape[2:4]
        if groups > poke_xy.shape[2] + 1:
            raise InvalidInputError(
                f"{groups} query groups need at least {groups - 1} pokes, got {poke_xy.shape[2]}"
            )
        # The last group sees groups - 1 pokes; later ones would influence nothing.
        poke_xy, poke_flow = (each[:, :, : groups - 1] for each in (poke_xy, poke_flow))
        pokes = self._no_pokes(context, poke_xy, camera_static)
        first_hidden = torch.arange(groups, device=poke_xy.device).repeat_interleave(n)
        raw = self._advance(
            context, pokes, poke_xy, poke_flow, None, query_xy.flatten(2, 3), first_hidden
        )[1]
        return raw.unflatten(2, (groups, n))

    def _no_pokes(
        self, image: ImageContext, poke_xy: Tensor, camera_static: Tensor | None
    ) -> PokeContext:
        batch = image.maps[0].shape[0]
        device = image.gains.device
        if poke_xy.ndim != 4 or poke_xy.shape[0] != batch or poke_xy.shape[3] != 2:
            raise InvalidInputError(
                f"pokes must be [B = {batch}, C, P, 2], got {list(poke_xy.shape)}"
            )
        if camera_static is None:
            camera_static = torch.ones(batch, dtype=torch.bool, device=device)
        if camera_static.shape != (batch,):
            raise InvalidInputError(
                f"camera_static must be [B = {batch}], got {list(camera_static.shape)}"
            )
        heads, d_head = self.config.transformer.heads, self.config.transformer.d_head
        empty = image.keys[0].v.new_empty(batch, poke_xy.shape[1], heads, 0, d_head)
        no_points = poke_xy[:, :, :0]
        return PokeContext(
            tuple(PokeKeys(empty, empty) for _ in image.keys),
            torch.ones(no_points.shape[:3], dtype=torch.bool, device=device),
            image.gains[:, :, camera_static.to(torch.long), None, None],
            no_points,
            no_points,
            no_points.new_empty(
                *no_points.shape[:3], PokeReference.D_KEY if self.poke_reference else 0
            ),
        )

    def _advance(
        self,
        image: ImageContext,
        past: PokeContext,
        poke_xy: Tensor,
        poke_flow: Tensor,
        poke_counts: Tensor | None,
        points: Tensor | None,
        first_hidden: Tensor | None = None,
    ) -> tuple[PokeContext, Tensor]:
        """Run new pokes and query points in one pass, in this order, after the past pokes.

        first_hidden [Q]: the index of the first poke that each query does not see (default: sees
        all).
        """
        points = poke_xy[:, :, :0] if points is None else points
        self._check_points(past, poke_xy, poke_flow, points)
        poke_flow = poke_flow * self.config.head.flow_scale
        n_past, n_pokes, n_points = past.visible.shape[2], poke_xy.shape[2], points.shape[2]
        n_total = n_past + n_pokes
        index = torch.arange(n_total, device=poke_xy.device)
        new, poke_xy, poke_flow = used_pokes(poke_xy, poke_flow, poke_counts)
        present = torch.cat([past.visible, new], dim=2)
        if first_hidden is None:
            first_hidden = index.new_full((n_points,), n_total)
        visible = present[:, :, None] & (index < torch.cat([index[n_past:], first_hidden])[:, None])

        xy = torch.cat([poke_xy, points], dim=2)
        samples = sample_maps(image.maps, xy, self.image_embedder.align_corners)
        x = self.input_mlp(samples, poke_flow)
        x, keys = self.transformer(x, xy, n_pokes, past.keys, visible, image.keys, past.gains)
        pokes = PokeContext(
            keys,
            present,
            past.gains,
            torch.cat([past.xy, poke_xy], dim=2),
            torch.cat([past.flow, poke_flow], dim=2),
            past.reference_keys,
        )
        if self.poke_reference is not None:
            new_keys = self.poke_reference.keys_of(x[:, :, :n_pokes])
            pokes = replace(pokes, reference_keys=torch.cat([past.reference_keys, new_keys], 2))
        return pokes, self.head(x[:, :, n_pokes:], points, pokes, visible[:, :, n_pokes:])

    def head(self, x: Tensor, points: Tensor, pokes: PokeContext, visible: Tensor) -> Tensor:
        """Raw mixture parameters [B, C, Q, 6K] of queries with tokens x [B, C, Q, width]."""
        with torch.autocast(x.device.type, enabled=False):
            raw = self.out_mlp(x)
        if self.poke_reference is None:
            return raw
        n = self.config.head.n_components
        logits, means, entries, turns = raw.split([n, 2 * n, 3 * n, 2 * n], dim=-1)
        flow = self.poke_reference(x, points, pokes.reference_keys, pokes.xy, pokes.flow, visible)
        across = torch.stack([-flow[..., 1], flow[..., 0]], dim=-1)
        along_weight, across_weight = turns.unflatten(-1, (2, n, 1)).unbind(-3)
        copies = along_weight * flow.unsqueeze(-2) + across_weight * across.unsqueeze(-2)
        return torch.cat([logits, means + copies.flatten(-2), entries], dim=-1)

    @staticmethod
    def _check_points(
        past: PokeContext, poke_xy: Tensor, poke_flow: Tensor, points: Tensor
    ) -> None:
        batch, candidates = past.visible.shape[:2]
        expected = f"[{batch}, {candidates}, N, 2]"
        for name, each in (("points", points), ("poke_xy", poke_xy), ("poke_flow", poke_flow)):
            if each.ndim != 4 or each.shape[:2] != (batch, candidates) or each.shape[3] != 2:
                raise InvalidInputError(f"{name} must be {expected}, got {list(each.shape)}")
        if poke_xy.shape != poke_flow.shape:
            raise InvalidInputError(
                f"poke_xy {list(poke_xy.shape)} and poke_flow {list(poke_flow.shape)} must agree"
            )


def used_pokes(
    poke_xy: Tensor, poke_flow: Tensor, poke_counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Which slots of pokes [B, C, P, 2] are used, bool [B, C, P], and the pokes, zero elsewhere.

    poke_counts [B, C] says how many, the first ones; None: all.
    """
    slots = torch.arange(poke_xy.shape[2], device=poke_xy.device)
    if poke_counts is None:
        return (
            torch.ones(poke_xy.shape[:3], dtype=torch.bool, device=slots.device),
            poke_xy,
            poke_flow,
        )
    present = slots < poke_counts[..., None]
    used = present[..., None]
    return present, torch.where(used, poke_xy, 0), torch.where(used, poke_flow, 0)
