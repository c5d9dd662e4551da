"""The centre crop between source pixels and the model's unit square.

Nothing else converts coordinates. (The encoders crop and resize too, for training images and for
callers of the bare network; what comes from here already has their size, and they leave it alone.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InvalidInputError
from .pixels import RGB, Pixels, Yuv422

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class CropTransform:
    """Centre square of an image, resized to what the model takes.

    Pixel coordinates are continuous: x right, y down, the centre of the first pixel at (0.5, 0.5).
    The unit square [0, 1]^2 spans the crop from its outer top-left corner. Points outside it are
    legal. Methods on points take floating numpy arrays or torch tensors [..., 2] and return the
    same kind and dtype.

    Raises InvalidInputError unless all sizes are at least 1.
    """

    image_width_px: int
    image_height_px: int
    input_px: int

    def __post_init__(self) -> None:
        """Validate; raises InvalidInputError."""
        for name in ("image_width_px", "image_height_px", "input_px"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def roi(self) -> tuple[int, int, int]:
        """Left edge x_px, top edge y_px and side_px of the crop in the source image."""
        side = min(self.image_width_px, self.image_height_px)
        # Python's round (half to even) is what the published network was run with.
        return (
            round((self.image_width_px - side) / 2),
            round((self.image_height_px - side) / 2),
            side,
        )

    def to_unit(self, points_px: Array) -> Array:
        """Source pixels to the unit square."""
        x, y, side = self.roi
        return (points_px - _vector(x, y, points_px)) / side

    def to_source(self, points_unit: Array) -> Array:
        """Unit square to source pixels."""
        x, y, side = self.roi
        return points_unit * side + _vector(x, y, points_unit)

    def displacement_to_unit(self, displacement_px: Array) -> Array:
        """Displacements in source pixels to the unit square's."""
        return displacement_px / self.roi[2]

    def displacement_to_source(self, displacement_unit: Array) -> Array:
        """Displacements in the unit square to source pixels."""
        return displacement_unit * self.roi[2]

    def contains(self, points_px: Array) -> Array:
        """Whether points lie in the crop, bool [...]; False for NaN."""
        x, y, side = self.roi
        return _within(points_px, x, y, x + side, y + side)

    def in_image(self, points_px: Array) -> Array:
        """Whether points lie in the source image, bool [...]; False for NaN."""
        return _within(points_px, 0, 0, self.image_width_px, self.image_height_px)

    def crop_and_resize(self, image: Pixels, device: torch.device | str = "cpu") -> Tensor:
        """Model input uint8 [3, input_px, input_px], RGB, on a device.

        Antialiased bicubic, within one grey level of Pillow's (two in rare pixels when enlarging).
        The host copies the bytes of the crop, once, as they are; colours and size are up to the
        device, for which the host does not wait. Raises InvalidInputError if the image is of
        another size.
        """
        height, width = image.data.shape[:2]
        if (width, height) != (self.image_width_px, self.image_height_px):
            raise InvalidInputError(
                f"image must be {self.image_width_px} x {self.image_height_px} px, "
                f"got {width} x {height}"
            )
        x, y, side = self.roi
        device, layout = torch.device(device), image.layout
        rows = image.data[y : y + side]
        if isinstance(layout, Yuv422):
            odd = x % 2  # 1: the crop begins with the right one of two that share their colour
            pairs = _uploaded(rows[:, x - odd : x + side + (x + side) % 2], device)
            pixels, layout = _rgb_of_yuv(pairs, layout)[:, odd : odd + side], RGB
        else:
            pixels = _uploaded(rows[:, x : x + side], device)
        planes = pixels.permute(2, 0, 1)[None]
        small = _resized(planes, self.input_px, in_integers=device.type == "cpu")[0]
        return torch.stack([small[index] for index in layout])

    def grid(self, n: int) -> np.ndarray:
        """Centres of n x n cells of the crop in source pixels, float32 [n * n, 2], row-major."""
        if not isinstance(n, int | np.integer) or n < 1:
            raise InvalidInputError(f"a grid needs an integer of at least 1 per side, got {n!r}")
        ticks = (np.arange(n) + 0.5) / n
        unit = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        return self.to_source(unit).astype(np.float32)

    def paste(self, values: np.ndarray | Tensor, fill: float) -> np.ndarray:
        """Maps over the source image, float32 [..., H, W], from maps [..., n, n] of `grid(n)`.

        Bilinear between cell centres, constant beyond the outermost ones, `fill` outside the crop.
        """
        cells = torch.as_tensor(values, dtype=torch.float32).cpu()
        if cells.ndim < 2 or cells.shape[-1] != cells.shape[-2] or cells.shape[-1] < 1:
            raise InvalidInputError(f"maps must be [..., n, n], got {list(cells.shape)}")
        x, y, side = self.roi
        shape = (*cells.shape[:-2], self.image_height_px, self.image_width_px)
        pasted = np.full(shape, fill, dtype=np.float32)
        maps = cells.reshape(-1, 1, *cells.shape[-2:])
        if len(maps):
            resized = F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
            crop = resized.reshape(*cells.shape[:-2], side, side)
            pasted[..., y : y + side, x : x + side] = crop.numpy()
        return pasted


def _uploaded(pixels: np.ndarray, device: torch.device) -> Tensor:
    """A copy, on a device, of an array uint8 of any strides, which may be read-only."""
    # From locked pages the host need not wait until the GPU has it.
    copy = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    copy.numpy()[...] = pixels
    return copy.to(device, non_blocking=True)


def _rgb_of_yuv(packed: Tensor, layout: Yuv422) -> Tensor:
    """RGB uint8 [H, W, 3] from YUV 4:2:2 uint8 [H, W, 2], W even.

    BT.601 in integers, in units of 2^-20, rounded at the end: to the bit what OpenCV gives.
    """
    luma = packed[..., layout.luma].unflatten(1, (-1, 2)).int()
    chroma = packed[..., layout.chroma].int() - 128
    u, v = chroma[:, 0::2, None], chroma[:, 1::2, None]
    y = (luma - 16).clamp(min=0) * 1220542 + (1 << 19)
    rgb = [y + 1673527 * v, y - 852492 * v - 409993 * u, y + 2116026 * u]
    return (torch.stack(rgb, -1) >> 20).clamp(0, 255).to(torch.uint8).flatten(1, 2)


def _resized(planes: Tensor, side: int, in_integers: bool) -> Tensor:
    """Square images uint8 [B, C, H, W] resized; only the CPU has fast integer arithmetic for it."""
    if in_integers:
        return F.interpolate(planes, (side, side), mode="bicubic", antialias=True)
    wide = planes.float()
    # One axis after the other, as in integers: what overshoots black or white is cut off between.
    for size in ((planes.shape[-2], side), (side, side)):
        wide = F.interpolate(wide, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return wide.to(torch.uint8)


def _vector(x: float, y: float, like: Array) -> Array:
    if isinstance(like, Tensor):
        return like.new_tensor((x, y))
    return np.array((x, y), dtype=like.dtype)


def _within(points: Array, left: float, top: float, right: float, bottom: float) -> Array:
    x, y = points[..., 0], points[..., 1]
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
