"""Short videos of moving, turning and hiding things, whose every motion is known.

Textured and plain cut-outs move over a textured, a plain or a shaded ground by similarities, one
in front of the other, seen through noise, changing light and blur.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.tracks import TRACK_SIDE_PX

Rng = np.random.Generator


@dataclass(frozen=True)
class KnownClip:
    """A video and the truth for every pixel of its first frame.

    video uint8 [T, S, S, 3]; flow float32 [T, S, S, 2] px to each frame; visible bool [T, S, S].
    """

    video: NDArray[np.uint8]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class _Thing:
    """A cut-out: its picture and mask in its own frame, and how it moves per frame."""

    picture: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    start: NDArray[np.float64]
    velocity: NDArray[np.float64]
    angle: float
    turn: float
    growth: float

    def pose(self, t: float) -> NDArray[np.float64]:
        """Affine map [2, 3] from the cut-out to the frame at time t."""
        angle, scale = self.angle + self.turn * t, np.exp(self.growth * t)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]])
        middle = np.array(self.mask.shape[::-1]) / 2 - 0.5
        shift = self.start + self.velocity * t - linear @ middle
        return np.column_stack([linear, shift])


def known_clip(seed: int, frames: int = 25, side_px: int = TRACK_SIDE_PX) -> KnownClip:
    """A random clip; the same arguments always give the same."""
    rng = np.random.default_rng(seed)
    ground = _surface(rng, side_px, plain=0.35)
    things = [_thing(rng, side_px, frames) for _ in range(int(rng.integers(2, 5)))]
    light = 1 + np.cumsum(rng.normal(0, 0.003, frames))
    noise, blur = rng.uniform(0.5, 3.0), rng.uniform(0.3, 1.0)
    video, owners = [], []
    for t in range(frames):
        picture, owner = ground.copy(), np.zeros((side_px, side_px), np.uint8)
        for number, thing in enumerate(things, 1):
            size = (side_px, side_px)
            mask = cv2.warpAffine(thing.mask, thing.pose(t), size, flags=cv2.INTER_LINEAR)
            look = cv2.warpAffine(
                thing.picture, thing.pose(t), size, flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT,
            )  # fmt: skip
            share = mask[..., None].astype(np.float32) / 255
            picture = (look * share + picture * (1 - share)).astype(np.uint8)
            owner[mask > 127] = number
        picture = cv2.GaussianBlur(picture, (0, 0), blur) * light[t]
        picture = picture + rng.normal(0, noise, picture.shape)
        video.append(np.clip(picture, 0, 255).astype(np.uint8))
        owners.append(owner)
    flow, visible = _truth(things, owners)
    return KnownClip(np.stack(video), flow, visible)


def _truth(
    things: list[_Thing], owners: list[NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    side = len(owners[0])
    y, x = np.mgrid[:side, :side].astype(np.float64)
    start = np.stack([x, y], axis=-1)
    flow = np.zeros((len(owners), side, side, 2), np.float32)
    visible = np.zeros(flow.shape[:-1], bool)
    for t, owner in enumerate(owners):
        for number, thing in enumerate(things, 1):
            mine = owners[0] == number
            here, there = thing.pose(0), thing.pose(t)
            own = (start[mine] - here[:, 2]) @ np.linalg.inv(here[:, :2]).T
            flow[t][mine] = own @ there[:, :2].T + there[:, 2] - start[mine]
        goal = start + flow[t]
        column, row = np.rint(goal).astype(int).transpose(2, 0, 1)
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        seen = owner[row.clip(0, side - 1), column.clip(0, side - 1)]
        visible[t] = inside & (seen == owners[0])
    return flow, visible


def _thing(rng: Rng, side_px: int, frames: int) -> _Thing:
    size = int(side_px * rng.uniform(0.15, 0.45))
    mask = np.zeros((size, int(size * rng.uniform(0.6, 1.6))), np.uint8)
    height, width = mask.shape
    corners = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners < 8 else None
    middle = (width // 2, height // 2)
    if angles is None or np.diff(angles, append=angles[0] + 2 * np.pi).max() > 2.6:
        cv2.ellipse(mask, middle, (width // 2 - 3, height // 2 - 3), 0, 0, 360, 255, -1)
    else:
        radius = np.array([width, height]) / 2 - 3
        polygon = np.array(middle) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        cv2.fillPoly(mask, [polygon.astype(np.int32)], 255)
    travel = np.exp(rng.uniform(np.log(0.01), np.log(0.35))) * side_px / frames
    direction = rng.uniform(0, 2 * np.pi)
    return _Thing(
        _surface(rng, max(mask.shape), plain=0.3)[: mask.shape[0], : mask.shape[1]],
        mask,
        rng.uniform(0.15, 0.85, 2) * side_px,
        travel * np.array([np.cos(direction), np.sin(direction)]) * (rng.random() < 0.75),
        rng.uniform(0, 2 * np.pi),
        rng.uniform(-0.7, 0.7) / frames * (rng.random() < 0.6),
        rng.uniform(-0.2, 0.2) / frames * (rng.random() < 0.4),
    )


def _surface(rng: Rng, side_px: int, plain: float) -> NDArray[np.uint8]:
    """A picture [S, S, 3]: noise of several scales and marks, or hardly anything."""
    colour = rng.uniform(30, 220, 3)
    shade = np.linspace(-1, 1, side_px)[:, None] * rng.uniform(-20, 20)
    shade = shade + np.linspace(-1, 1, side_px)[None] * rng.uniform(-20, 20)
    picture = colour + shade[..., None] * np.ones(3)
    if rng.random() >= plain:
        strength = rng.uniform(10, 60)
        for scale in (2, 5, 12, 30):
            cells = max(2, side_px // scale)
            coarse = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
            layer = cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
            picture = picture + rng.uniform(0, 1) * strength * layer
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        for _ in range(int(rng.integers(0, 30))):
            a, b = (tuple(map(int, p)) for p in rng.uniform(0, side_px, (2, 2)))
            mark = tuple(map(int, rng.uniform(0, 255, 3)))
            cv2.line(picture, a, b, mark, int(rng.integers(1, 6)), cv2.LINE_AA)
    return np.clip(picture, 0, 255).astype(np.uint8)
