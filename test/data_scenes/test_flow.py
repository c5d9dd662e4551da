"""Image motion against ray casting, against the second picture, and against geometry."""

import cv2
import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpt_ros.data.samples import cell_centres
from fpt_ros.data.scenes import camera as cameras
from fpt_ros.data.scenes.families import furniture
from fpt_ros.data.scenes.flow import Poses, carry, displacement, visible_at
from fpt_ros.data.scenes.outcomes import State
from fpt_ros.data.scenes.render import SceneRenderer
from fpt_ros.data.scenes.views import find_view
from fpt_ros.data.scenes.world import build_world

GRID = 48


@st.composite
def looks(draw):
    numbers = st.floats(-1, 1, allow_nan=False)
    position = np.array([draw(numbers) * 2 + 3, draw(numbers), draw(numbers) + 1.5])
    target = np.array([draw(numbers) * 0.3, draw(numbers) * 0.3, draw(numbers) * 0.3])
    return cameras.look_at(position, target, 0.1 * draw(numbers), 0.5 + 0.2 * draw(numbers))


@given(looks(), st.floats(0.1, 10))
def test_project_undoes_unproject(camera, metres):
    unit = cell_centres(5).reshape(5, 5, 2)
    depth = np.full((5, 5), metres)
    back, back_depth = camera.project(camera.unproject(unit, depth))
    assert np.allclose(back, unit)
    assert np.allclose(back_depth, metres)
    assert np.allclose(camera.rotation.T @ camera.rotation, np.eye(3))


@given(looks(), st.integers(0, 1000))
def test_camera_motion_is_rigid_and_starts_at_rest(camera, seed):
    shift, turn = cameras.moved_camera(np.random.default_rng(seed), camera, 1.0)
    still = cameras.displaced(camera, shift, turn, 0.0)
    moved = cameras.displaced(camera, shift, turn, 1.0)
    assert np.allclose(still.rotation, camera.rotation)
    assert np.allclose(moved.rotation.T @ moved.rotation, np.eye(3))
    assert np.allclose(moved.position, camera.position + shift)


def test_carry_turns_points_with_their_body():
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    before = Poses(np.array([[0, 0, 0], [1, 0, 0.0]]), np.stack([np.eye(3)] * 2))
    after = Poses(np.array([[0, 0, 0], [1, 0, 2.0]]), np.stack([np.eye(3), quarter]))
    points = np.array([[2.0, 0, 0], [2.0, 0, 0]])
    moved = carry(points, np.array([0, 1]), before, after)
    assert np.allclose(moved, [[2, 0, 0], [1, 1, 2]])


def test_visible_only_before_what_is_drawn_and_inside():
    depth = np.full((8, 8), 2.0)
    unit = np.array([[0.5, 0.5], [0.5, 0.5], [1.01, 0.5], [-3.0, 0.5], [np.nan, 0.5]])
    at = np.array([1.99, 2.3, 1.0, 1.0, 1.0])
    assert visible_at(unit, at, depth).tolist() == [True, False, False, False, False]


@pytest.fixture(
    scope="module",
    params=[(furniture.small_drawers, 4), (furniture.chest, 2)],
    ids=["small_drawers", "chest"],
)
def scene(request):
    """A scene, its view, a camera a little beside the first, and the state after a motion."""
    family, seed = request.param
    rng = np.random.default_rng(seed)
    world = build_world(family, rng)
    world.gripper = None
    # even light, so that a surface looks the same before and after
    world.model.light_active[:] = False
    world.model.vis.headlight.ambient[:] = 0.9
    world.model.vis.headlight.diffuse[:] = 0.0
    world.model.vis.headlight.specular[:] = 0.0
    state = State(world)
    assert state.restart(rng)
    with SceneRenderer(world.model) as renderer:
        view = find_view(rng, world, state, renderer, 96, GRID)
        assert view is not None
        motion = state.joint_motion(rng, world.mechanisms).scaled(0.5)
        later = state.later(motion, [1.0])[0]
        state.show(later)
        camera = cameras.displaced(view.camera, np.array([0.01, 0.02, 0.0]), np.zeros(3), 1.0)
        yield world, state, view, camera, renderer


def test_flow_agrees_with_ray_casting(scene):
    """A ray from the second camera through the target hits the same body at the same distance."""
    world, state, view, camera, renderer = scene
    flow, depth = displacement(
        view.unit, view.points, view.body, view.poses, Poses.of(state.data), camera
    )
    depth_map, _ = renderer.geometry(state.data, camera, 3 * GRID)
    visible = visible_at(view.unit + flow, depth, depth_map)
    assert visible.mean() > 0.3
    geom = np.zeros(1, np.int32)
    agree = []
    cells = np.argwhere(visible & (view.depth < 8))
    for i, j in cells[:: max(1, len(cells) // 400)]:
        ray = camera.rays(view.unit[i, j] + flow[i, j])
        length = np.linalg.norm(ray)
        hit = mujoco.mj_ray(
            world.model, state.data, camera.position, ray / length, None, 1, -1, geom
        )
        same_body = world.model.geom_bodyid[geom[0]] == view.body[i, j]
        agree.append(same_body and abs(hit / length - depth[i, j]) < 0.003 * depth[i, j])
    # The few others lie on edges, where "visible" is lenient by a pixel.
    assert np.mean(agree) > 0.93


def test_second_picture_warped_back_looks_like_the_first(scene):
    _, state, view, _, renderer = scene
    after = Poses.of(state.data)
    flow, depth = displacement(view.unit, view.points, view.body, view.poses, after, view.camera)
    depth_map, _ = renderer.geometry(state.data, view.camera, 3 * GRID)
    moving = np.linalg.norm(flow, axis=-1) > 0.01
    checked = moving & visible_at(view.unit + flow, depth, depth_map)
    assert checked.sum() > 20
    second, _ = renderer.colour(state.data, view.camera, 192)
    later = state.data.qpos.copy()
    state.show(state.start)
    first, _ = renderer.colour(state.data, view.camera, 192)
    state.show(later)

    def colours(picture, unit):
        at = (unit * len(picture) - 0.5).astype(np.float32)
        return cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR).astype(float)

    wanted = colours(first, view.unit)
    warped = np.abs(colours(second, view.unit + flow) - wanted)[checked].mean()
    unmoved = np.abs(colours(second, view.unit) - wanted)[checked].mean()
    assert warped < 0.35 * unmoved


def test_what_is_fixed_to_the_world_stays(scene):
    _, state, view, _, _ = scene
    after = Poses.of(state.data)
    flow, _ = displacement(view.unit, view.points, view.body, view.poses, after, view.camera)
    fixed = view.part == 0
    assert fixed.any()
    assert np.abs(flow[fixed]).max() < 1e-9
