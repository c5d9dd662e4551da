"""Exact motion of image points: unproject, move with the body, project again."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes.camera import Camera


@dataclass(frozen=True)
class Poses:
    """Where every body is: position [B, 3], rotation [B, 3, 3]."""

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]

    @classmethod
    def of(cls, data: mujoco.MjData) -> Poses:
        """Copy the poses out of a state (after mj_kinematics)."""
        return cls(data.xpos.copy(), data.xmat.reshape(-1, 3, 3).copy())


def carry(
    points: NDArray[np.float64], body: NDArray[np.integer], before: Poses, after: Poses
) -> NDArray[np.float64]:
    """World points [..., 3] fixed to bodies [...], moved from one set of poses to another."""
    rotation = after.rotation @ before.rotation.transpose(0, 2, 1)
    shift = after.position - (rotation @ before.position[..., None])[..., 0]
    return np.einsum("...ij,...j->...i", rotation[body], points) + shift[body]


def visible_at(
    unit: NDArray[np.float64], depth: NDArray[np.float64], depth_map: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether points at `unit` [..., 2] and `depth` [...] (m) are seen in a depth map [S, S].

    A point counts as seen when it is not behind everything in the 3 x 3 pixels around it (slanted
    surfaces change depth inside one pixel).
    """
    size = len(depth_map)
    farthest = cv2.dilate(depth_map, np.ones((3, 3), np.uint8))
    pixel = np.floor(np.nan_to_num(unit, nan=-1.0).clip(-1, 2) * size).astype(int)
    inside = ((pixel >= 0) & (pixel < size)).all(-1) & (depth > 0)
    x, y = np.clip(pixel, 0, size - 1)[..., 0], np.clip(pixel, 0, size - 1)[..., 1]
    return inside & (depth <= farthest[y, x] * 1.01 + 0.002)


def displacement(
    unit: NDArray[np.float64],
    points: NDArray[np.float64],
    body: NDArray[np.integer],
    before: Poses,
    after: Poses,
    camera: Camera,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Image displacement [..., 2] and new depth [...] (m) of surface points.

    unit [..., 2]: their positions in the first picture; camera: the one of the second picture.
    Displacements are limited to 4 image sides (points that come close to the camera plane).
    """
    target, depth = camera.project(carry(points, body, before, after))
    return np.clip(target - unit, -4, 4), depth
