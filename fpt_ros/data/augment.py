"""Augmentation: a random similarity of the unit square, and random light, colour and blur.

The geometric part is one affine map that acts on the image, on positions and on displacements
alike, so labels stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly training images are varied; every `p_...` is a probability.

    The crop window always lies inside the image, so no invented border is ever seen.
    """

    p_flip: float = 0.5
    """Mirror left and right."""
    p_rotate: float = 0.4
    """Turn by an angle drawn uniformly from +-max_angle_deg."""
    max_angle_deg: float = 15.0
    p_crop: float = 0.8
    """Zoom into a window with a side drawn uniformly from [min_crop, 1]."""
    min_crop: float = 0.65
    brightness: float = 0.2
    """Largest offset, as a share of the full range."""
    contrast: float = 0.35
    """Gain between 1 - contrast and 1 + contrast."""
    saturation: float = 0.5
    gamma: float = 0.35
    """Exponent between exp(-gamma) and exp(gamma)."""
    hue_deg: float = 30.0
    """Rotation about the grey axis."""
    p_blur: float = 0.25
    max_blur_px: float = 1.2
    """Largest standard deviation of the Gaussian blur."""
    p_noise: float = 0.3
    max_noise: float = 10.0
    """Largest standard deviation of the sensor noise, grey levels of 255."""
    p_jpeg: float = 0.2
    """Compress again with a quality between 30 and 90."""


NO_AUGMENTATION = AugmentConfig(
    p_flip=0, p_rotate=0, p_crop=0, brightness=0, contrast=0, saturation=0, gamma=0, hue_deg=0,
    p_blur=0, p_noise=0, p_jpeg=0,
)  # fmt: skip


@dataclass(frozen=True)
class UnitAffine:
    """p -> matrix p + offset on the unit square; displacements take the matrix only."""

    matrix: np.ndarray
    offset: np.ndarray

    def points(self, points: np.ndarray) -> np.ndarray:
        """Map positions [..., 2]."""
        return (points @ self.matrix.T + self.offset).astype(np.float32)

    def displacements(self, flow: np.ndarray) -> np.ndarray:
        """Map displacements [..., 2]."""
        return (flow @ self.matrix.T).astype(np.float32)

    def image(self, rgb: np.ndarray, side_px: int) -> np.ndarray:
        """Warp uint8 [S, S, 3] to [side_px, side_px, 3], bilinear, free of aliasing."""
        shrink = rgb.shape[0] * np.sqrt(abs(np.linalg.det(np.linalg.inv(self.matrix)))) / side_px
        if shrink > 1.25:
            small_px = round(rgb.shape[0] / shrink)
            rgb = cv2.resize(rgb, (small_px, small_px), interpolation=cv2.INTER_AREA)
        inverse = np.linalg.inv(self.matrix)
        # Output pixel j is the unit position (j + 0.5) / side; source pixel i likewise.
        scale = rgb.shape[0] / side_px
        half = np.full(2, 0.5)
        linear = inverse * scale
        constant = (inverse @ (half / side_px - self.offset)) * rgb.shape[0] - half
        return cv2.warpAffine(
            rgb,
            np.column_stack([linear, constant]),
            (side_px, side_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )


IDENTITY = UnitAffine(np.eye(2), np.zeros(2))


def draw_geometry(rng: np.random.Generator, config: AugmentConfig) -> UnitAffine:
    """A random flip, rotation and crop whose window lies inside the unit square."""
    angle = 0.0
    if rng.random() < config.p_rotate:
        angle = np.deg2rad(rng.uniform(-config.max_angle_deg, config.max_angle_deg))
    reach = abs(np.cos(angle)) + abs(np.sin(angle))
    side = rng.uniform(config.min_crop, 1.0) if rng.random() < config.p_crop else 1.0
    side = min(side, 1.0 / reach)
    slack = (1.0 - side * reach) / 2
    centre = 0.5 + rng.uniform(-slack, slack, size=2)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]]) / side
    if rng.random() < config.p_flip:
        matrix[0] *= -1
    return UnitAffine(matrix, 0.5 - matrix @ centre)


def vary_light(rgb: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Random light, colour, blur, noise and compression of a uint8 image [S, S, 3]."""
    gain = 1 + rng.uniform(-config.contrast, config.contrast)
    lift = 255 * rng.uniform(-config.brightness, config.brightness)
    saturation = 1 + rng.uniform(-config.saturation, config.saturation)
    hue = np.deg2rad(rng.uniform(-config.hue_deg, config.hue_deg))
    gamma = np.exp(rng.uniform(-config.gamma, config.gamma))
    if (gain, lift, saturation, hue) != (1, 0, 1, 0):
        colour = gain * _turn_about_grey(hue) @ _saturate(saturation)
        offset = 127.5 * (1 - gain) + lift
        rgb = cv2.transform(rgb, np.column_stack([colour, np.full(3, offset)]))
    if gamma != 1:
        table = 255 * (np.arange(256) / 255.0) ** gamma
        rgb = cv2.LUT(rgb, table.round().astype(np.uint8))
    if rng.random() < config.p_blur:
        least_px = min(0.2, config.max_blur_px)
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(least_px, config.max_blur_px))
    if rng.random() < config.p_noise:
        noise = rng.standard_normal(rgb.shape, dtype=np.float32) * rng.uniform(0, config.max_noise)
        rgb = np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)
    if rng.random() < config.p_jpeg:
        quality = int(rng.integers(30, 91))
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        rgb = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return rgb


def _saturate(amount: float) -> np.ndarray:
    luma = np.array([0.299, 0.587, 0.114])
    return amount * np.eye(3) + (1 - amount) * np.tile(luma, (3, 1))


def _turn_about_grey(angle: float) -> np.ndarray:
    """Rotation matrix about the axis (1, 1, 1), Rodrigues' formula."""
    k = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
