"""From a rendering to something like a photograph: soft shading in corners, exposure, size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
_SKY_M = 12.0


def occlusion(depth: NDArray[np.float64], radius_m: float) -> NDArray[np.float32]:
    """How much of the surrounding light a point lacks, [S, S] in [0, 1], from the depth alone.

    Inner corners and narrow gaps are shaded: places further away than the line between their
    neighbours on both sides. (The inverse depth of a plane is linear in the picture.) Much deeper
    jumps than `radius_m` are outlines of separate things and cast no such shade.
    """
    z = np.minimum(depth, 20.0).astype(np.float32)
    shade = np.zeros_like(z)
    for step in (max(1, len(z) // 190), max(2, len(z) // 60)):
        padded = np.pad(z, step, mode="edge")
        for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
            size = len(z)
            one = padded[step + dy : step + dy + size, step + dx : step + dx + size]
            two = padded[step - dy : step - dy + size, step - dx : step - dx + size]
            gap = 0.5 * z * z * (1 / one + 1 / two - 2 / z)
            jump = np.maximum(np.abs(one - z), np.abs(two - z))
            near = (jump < 6 * radius_m) & (z < _SKY_M)
            shade += np.where(near, np.clip(gap / radius_m, 0, 1), 0)
    return np.clip(cv2.GaussianBlur(shade, (0, 0), len(z) / 300) / 3, 0, 1)


def _uneven(rng: Rng, size: int) -> NDArray[np.float32]:
    """Light that changes slowly across the picture, [size, size] in about [-1, 1]."""
    coarse = rng.uniform(-1, 1, (3, 3))
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def photograph(
    rng: Rng, rgb: NDArray[np.uint8], depth: NDArray[np.float64], size_px: int, radius_m: float
) -> NDArray[np.uint8]:
    """Shade corners, light unevenly, expose like an automatic camera, and shrink to size_px.

    rgb [S, S, 3] and depth [S, S] (m) are rendered larger than size_px, which smooths edges.
    radius_m: rough size of gaps and corners that should look darker.
    """
    light = 1.0 - rng.uniform(0.2, 0.65) * occlusion(depth, radius_m)
    light *= 1.0 + rng.uniform(0.0, 0.3) * _uneven(rng, len(rgb))
    picture = rgb.astype(np.float32) * light[..., None]
    picture = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA)
    # the logarithmic mean is not misled by a bright window in a dark room
    level = float(np.exp(np.log(picture + 8.0).mean()))
    gain = np.clip(rng.uniform(85, 160) / level, 0.6, 3.0)
    return np.clip(picture * gain, 0, 255).astype(np.uint8)
