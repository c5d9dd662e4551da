"""First pictures: where the camera and the gripper are, and which points are seen."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.samples import cell_centres
from fpt_ros.data.scenes.camera import Camera, random_camera
from fpt_ros.data.scenes.flow import Poses
from fpt_ros.data.scenes.outcomes import State
from fpt_ros.data.scenes.photo import photograph
from fpt_ros.data.scenes.render import MAX_PX, SceneRenderer
from fpt_ros.data.scenes.world import PARKED_M, World

Rng = np.random.Generator
Array = NDArray[np.float64]
_TRIES = 8
_SMALLEST_TARGET = 0.006
_LARGEST_GRIPPER = 0.3


@dataclass(frozen=True)
class View:
    """A first picture and the points seen at the centres of its G x G cells.

    image uint8 [S, S, 3]; unit [G, G, 2] positions in the picture; depth [G, G] m; points
    [G, G, 3] in the world; body, part int [G, G] (part 0 = fixed to the world); poses: of all
    bodies, to carry the points along.
    """

    camera: Camera
    image: NDArray[np.uint8]
    unit: Array
    depth: Array
    points: Array
    body: NDArray[np.int64]
    part: NDArray[np.int64]
    poses: Poses


@dataclass(frozen=True)
class _Seen:
    """Depth (m) and body at the cell centres, [G, G]."""

    depth: Array
    body: NDArray[np.int64]


def find_view(
    rng: Rng, world: World, state: State, renderer: SceneRenderer, image_px: int, grid: int
) -> View | None:
    """Find a viewpoint from which something that can move is well visible, and look from there.

    Leaves the gripper where it was put. None when no good viewpoint was found.
    """
    model, data = world.model, state.data
    unit = cell_centres(grid).astype(np.float64).reshape(grid, grid, 2)
    _park_gripper(world, state)
    for _ in range(_TRIES):
        state.show(state.start)
        camera = random_camera(rng, world.layout, _close_up(rng, world, state))
        if not world.room.contains(camera.position):
            continue
        seen = _see(model, state, renderer, camera, grid)
        if seen.depth.min() < 0.1 or _largest_target(world, state, seen) < _SMALLEST_TARGET:
            continue
        if world.gripper and rng.random() < 0.7:
            _place_gripper(rng, world, state, camera, unit, seen)
            with_gripper = _see(model, state, renderer, camera, grid)
            covered = np.mean(with_gripper.body == model.body(world.gripper).id)
            if covered < _LARGEST_GRIPPER:
                seen = with_gripper
            else:
                _park_gripper(world, state)
        rgb, depth = renderer.colour(data, camera, min(3 * image_px // 2, MAX_PX))
        image = photograph(rng, rgb, depth, image_px, 0.03 * world.layout.radius + 0.004)
        part = model.body_weldid[seen.body].astype(np.int64)
        if world.gripper:
            gripper = model.body(world.gripper).id
            part[seen.body == gripper] = gripper
        points = camera.unproject(unit, seen.depth)
        return View(camera, image, unit, seen.depth, points, seen.body, part, Poses.of(data))
    return None


def _close_up(rng: Rng, world: World, state: State) -> Array | None:
    """In half of the cases, where a random movable thing is."""
    joints = [m.joint for m in world.mechanisms]
    choices = [int(world.model.jnt_bodyid[world.model.joint(j).id]) for j in joints]
    choices += [int(world.model.body(name).id) for name in world.loose]
    if not choices or rng.random() < 0.5:
        return None
    return state.data.xipos[choices[int(rng.integers(len(choices)))]].copy()


def _see(
    model: mujoco.MjModel, state: State, renderer: SceneRenderer, camera: Camera, grid: int
) -> _Seen:
    # 3 x 3 pixels per cell, of which the middle one is exactly the cell centre
    depth, geom = renderer.geometry(state.data, camera, 3 * grid)
    depth, geom = depth[1::3, 1::3], geom[1::3, 1::3]
    return _Seen(depth, np.where(geom >= 0, model.geom_bodyid[geom], 0).astype(np.int64))


def _largest_target(world: World, state: State, seen: _Seen) -> float:
    """Share of the picture taken by the most visible thing that can move."""
    share = np.bincount(seen.body.ravel(), minlength=world.model.nbody) / seen.body.size
    ids = [np.array([world.model.body(name).id]) for name in world.loose]
    ids += [state.moved_body_ids(m) for m in world.mechanisms]
    return max((float(share[i].sum()) for i in ids), default=0.0)


def _park_gripper(world: World, state: State) -> None:
    if world.gripper:
        state.data.mocap_pos[0] = [0, 0, PARKED_M]


def _place_gripper(
    rng: Rng, world: World, state: State, camera: Camera, unit: Array, seen: _Seen
) -> None:
    """Bring the gripper to something visible: touching it, or waiting before it."""
    movable = world.model.body_weldid[seen.body] != 0
    cells = np.argwhere(movable if rng.random() < 0.8 else seen.depth < 10)
    if len(cells) == 0:
        return
    i, j = cells[rng.integers(len(cells))]
    target = camera.unproject(unit[i, j], seen.depth[i, j])
    to_camera = camera.position - target
    # the forearm comes from above or from a side, seldom straight from the camera
    sideways = camera.rotation[:, 0] * rng.normal(0, 1.0)
    away = 0.5 * to_camera / np.linalg.norm(to_camera) + sideways + [0, 0, rng.uniform(0.1, 1.2)]
    away = away / np.linalg.norm(away)
    hover = 0.0 if rng.random() < 0.6 else rng.uniform(0.03, 0.25)
    tilt, spin, both = np.zeros(4), np.zeros(4), np.zeros(4)
    mujoco.mju_quatZ2Vec(tilt, away)
    mujoco.mju_axisAngle2Quat(spin, np.array([0, 0, 1.0]), rng.uniform(0, np.pi))
    mujoco.mju_mulQuat(both, tilt, spin)
    state.data.mocap_pos[0] = target + away * hover
    state.data.mocap_quat[0] = both
    state.show(state.start)
