"""Image encoders: an RGB image in [-1, 1] becomes maps to sample and tokens to attend to."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend
from .config import DinoEncoderConfig, PyramidEncoderConfig

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFeatures(NamedTuple):
    """What an encoder hands to the poke transformer."""

    maps: tuple[Tensor, ...]  # each [B, channels, h, w], sampled at every token's position
    tokens: Tensor  # [B, S, channels], the keys of cross attention
    token_xy: Tensor  # [S, 2], their positions in the unit square


def cell_centres(rows: int, columns: int, like: Tensor) -> Tensor:
    """Centres of a grid of cells over the unit square: [rows * columns, 2] (x, y), row-major."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    y = (torch.arange(rows, device=like.device, dtype=dtype) + 0.5) / rows
    x = (torch.arange(columns, device=like.device, dtype=dtype) + 0.5) / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=-1)


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Learned position embeddings of a square grid [1, n * n, width], for one of `side` cells."""
    width = positions.shape[-1]
    n = math.isqrt(positions.shape[1])
    if n == side:
        return positions
    square = positions.reshape(1, n, n, width).permute(0, 3, 1, 2)
    square = square.to(torch.promote_types(square.dtype, torch.float32))
    resized = F.interpolate(square, (side, side), mode="bicubic", antialias=True)
    return resized.flatten(2).transpose(1, 2).to(positions.dtype)


def crop_and_resize(image: Tensor, input_px: int) -> Tensor:
    """Centre square of a float image [B, 3, H, W], resized to [B, 3, input_px, input_px]."""
    height, width = image.shape[-2:]
    if height == width == input_px:
        return image
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    square = image[..., top : top + side, left : left + side]
    if side == input_px:
        return square
    return F.interpolate(
        square, (input_px, input_px), mode="bilinear", antialias=True, align_corners=False
    )


def sample_maps(maps: tuple[Tensor, ...], xy: Tensor, align_corners: bool) -> Tensor:
    """Bilinear samples of every map at xy [B, C, N, 2], concatenated: [B, C, N, sum of channels].

    Points outside the unit square take the value at the border. With `align_corners` the unit
    square spans the centres of the corner cells instead of their outer edges.
    """
    grid = 2 * xy - 1
    samples = [
        F.grid_sample(
            each.to(grid.dtype),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=align_corners,
        )
        for each in maps
    ]
    return torch.cat(samples, dim=1).permute(0, 2, 3, 1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class VitBlock(nn.Module):
    """Pre-norm transformer block with layer scale; tokens [B, S, width] to the same."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.ls1 = _LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width, mlp_ratio * width)
        self.ls2 = _LayerScale(width)

    def start_as_identity(self) -> None:
        """Set weights so that nothing is changed, but can be learned to be."""
        for last in (self.attn.proj, self.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each token."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbed(nn.Module):
    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class _DinoV2(nn.Module):
    """DINOv2 with registers (Oquab et al. 2023, Darcet et al. 2023), patch tokens only."""

    def __init__(self, config: DinoEncoderConfig) -> None:
        super().__init__()
        width, side = config.width, config.position_grid
        self.grid = config.input_px // config.patch_px
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        # Stored in the published weights, used only in DINOv2's own training.
        self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)
        self.patch_embed = _PatchEmbed(width, config.patch_px)
        self.blocks = nn.ModuleList(VitBlock(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.register_tokens, std=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image) + resize_positions(self.pos_embed[:, 1:], self.grid)
        batch = image.shape[0]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        registers = self.register_tokens.expand(batch, -1, -1)
        x = torch.cat([first, registers, patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + registers.shape[1] :]


class DinoEncoder(nn.Module):
    """The published encoder: one feature map, also used as the tokens of cross attention."""

    # The published network samples its map this way although its keys sit at the cell centres.
    align_corners = True

    def __init__(self, config: DinoEncoderConfig) -> None:
        super().__init__()
        self.input_px = config.input_px
        self.map_channels = config.width
        self.token_channels = config.width
        self.model = _DinoV2(config)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode float RGB [B, 3, H, W] in [-1, 1] of any size (centre square, resized)."""
        image = (crop_and_resize(image, self.input_px) + 1) / 2
        tokens = self.model(
            (image - _per_channel(_IMAGENET_MEAN, image)) / _per_channel(_IMAGENET_STD, image)
        )
        side = self.model.grid
        feature_map = tokens.transpose(1, 2).unflatten(2, (side, side))
        return ImageFeatures((feature_map,), tokens, cell_centres(side, side, image))


def _per_channel(values: tuple[float, float, float], image: Tensor) -> Tensor:
    # Filled on the device: a CUDA graph cannot hold a copy from the host.
    each = [torch.full((), value, dtype=torch.float32, device=image.device) for value in values]
    return torch.stack(each).to(image.dtype).view(3, 1, 1)


class _ConvNorm(nn.Module):
    """3x3 convolution, instance norm, ReLU; [B, C, H, W] in channels-last memory.

    Each channel keeps unit variance over the image. A norm over the channels instead lets all
    positions drift to one constant vector early in training, and the image is never looked at.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(channels_out, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class _Merge(nn.Module):
    """Doubles the resolution of a coarse map and merges it with a fine one."""

    def __init__(self, coarse_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse_channels, channels, 1)
        self.mix = _ConvNorm(channels, channels, stride=1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        raised = F.interpolate(self.reduce(coarse), scale_factor=2.0, mode="nearest")
        return self.mix(fine + raised)


class PyramidEncoder(nn.Module):
    """The small encoder: tokens at stride 16 for attention, maps at strides 8 and 4 to sample.

    A poked part may be thin: the maps keep what the tokens are too coarse for.
    """

    align_corners = False

    def __init__(self, config: PyramidEncoderConfig) -> None:
        super().__init__()
        self.input_px = config.input_px
        self.map_channels = config.width_at_8 + config.width_at_4
        self.token_channels = config.width
        self.side = config.side
        self.to_2 = _ConvNorm(3, config.width_at_2, stride=2)
        self.to_4 = _ConvNorm(config.width_at_2, config.width_at_4, stride=2)
        self.to_8 = _ConvNorm(config.width_at_4, config.width_at_8, stride=2)
        self.to_16 = nn.Conv2d(config.width_at_8, config.width, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.zeros(1, self.side**2, config.width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(
            VitBlock(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.up_8 = _Merge(config.width, config.width_at_8)
        self.up_4 = _Merge(config.width_at_8, config.width_at_4)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode float RGB [B, 3, H, W] in [-1, 1] of any size (centre square, resized)."""
        image = crop_and_resize(image, self.input_px).contiguous(memory_format=torch.channels_last)
        at_4 = self.to_4(self.to_2(image))
        at_8 = self.to_8(at_4)
        tokens = self.to_16(at_8).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        at_16 = tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
        at_8 = self.up_8(at_16, at_8)
        at_4 = self.up_4(at_8, at_4)
        return ImageFeatures((at_8, at_4), tokens, cell_centres(self.side, self.side, image))
