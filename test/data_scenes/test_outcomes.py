"""Pushes and joint motions do what they say."""

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fpt_ros.data.scenes import generate, views
from fpt_ros.data.scenes.camera import look_at
from fpt_ros.data.scenes.families import furniture
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.outcomes import JointMotion, Push, State
from fpt_ros.data.scenes.render import SceneRenderer
from fpt_ros.data.scenes.views import find_view
from fpt_ros.data.scenes.world import build_world


def two_blocks(b):
    for x in (0.0, 0.12):
        body = b.loose_body([x, 0, 0.05])
        b.box(body, [0.05, 0.05, 0.05], [0, 0, 0], b.material("plain"))
    door = b.body(None, [0, 1.0, 0], stem="door")
    b.hinge(door, [0, 0, 1], 0.0, 1.5)
    b.box(door, [0.01, 0.2, 0.2], [0, 0.2, 0.2], b.material("plain"))
    return Layout("floor", (0, 0, 0.1), 0.3, 0.3, 0.3, np.pi)


@pytest.fixture
def state():
    world = build_world(two_blocks, np.random.default_rng(1))
    state = State(world)
    assert state.restart(np.random.default_rng(0))
    return state


def positions(state, qpos):
    state.show(qpos)
    return np.array([state.data.body(name).xpos.copy() for name in state.world.loose])


def test_a_push_moves_the_thing_and_what_is_behind_it(state):
    start = positions(state, state.start)
    body = state.model.body(state.world.loose[0]).id
    push = Push(body, start[0] + [-0.05, 0, 0], np.array([0.15, 0, 0]))
    half, end = (positions(state, q) - start for q in state.later(push, [0.5, 1.0]))
    assert end[0, 0] == pytest.approx(0.15, abs=0.05)
    assert end[1, 0] > 0.06  # the gap was 2 cm
    assert 0 < half[0, 0] < end[0, 0]
    assert np.abs(end[:, 2]).max() < 0.02


def test_pushed_away_from_the_other_leaves_it_alone(state):
    start = positions(state, state.start)
    body = state.model.body(state.world.loose[0]).id
    push = Push(body, start[0] + [0.05, 0, 0], np.array([-0.1, 0, 0]))
    end = positions(state, state.later(push, [1.0])[0]) - start
    assert end[0, 0] < -0.05
    assert np.abs(end[1]).max() < 0.003


def test_joints_go_where_they_are_sent(state):
    mechanism = state.world.mechanisms[0]
    address = state.model.joint(mechanism.joint).qposadr[0]
    now = state.start[address]
    delta = 0.8 if now < 0.7 else -0.6
    motion = JointMotion((mechanism,), (delta,), 1.0)
    half, end = state.later(motion, [0.5, 1.0])
    assert half[address] == pytest.approx(now + delta / 2, abs=0.02)
    assert end[address] == pytest.approx(now + delta, abs=0.02)
    assert state.joints_at(motion.scaled(100), 1.0)[address] in (mechanism.low, mechanism.high)


def test_physics_keeps_the_gripper_where_it_is():
    rng = np.random.default_rng(5)
    world = build_world(two_blocks, rng)
    while world.gripper is None:
        world = build_world(two_blocks, rng)
    state = State(world)
    assert state.restart(rng)
    state.data.mocap_pos[0] = [0.3, 0.2, 0.1]
    body = state.model.body(world.loose[0]).id
    state.later(Push(body, np.array([0, 0, 0.05]), np.array([-0.1, 0, 0])), [1.0])
    assert np.allclose(state.data.mocap_pos[0], [0.3, 0.2, 0.1])


def seen_from(view, points, shift, turn):
    """Unit-square positions of points for a camera moved by `shift` and turned by `turn` (rad)."""
    rotation = Rotation.from_rotvec(turn).as_matrix() @ view.camera.rotation
    right, up, backward = np.moveaxis((points - view.camera.position - shift) @ rotation, -1, 0)
    scale = 0.5 / (view.camera.tangent * -backward)
    return np.stack([0.5 + right * scale, 0.5 - up * scale], -1)


@pytest.mark.parametrize("moving_camera", [0.0, 1.0])
@pytest.mark.parametrize(
    ("seed", "gripper_touches"),
    [(44, True), (45, False), (34, True)],
    ids=["slide", "far", "hinge"],
)
def test_flow_at_every_horizon_by_closed_form(seed, gripper_touches, moving_camera, monkeypatch):
    rng = np.random.default_rng(seed)
    world = build_world(furniture.small_drawers, rng)
    state = State(world)
    assert state.restart(rng)
    settings = generate.SceneSettings(48, 32, (0.3, 1.0), moving_camera=moving_camera)
    shift, turn = np.array([0.01, -0.02, 0.015]), np.array([0.02, 0.01, -0.03])
    monkeypatch.setattr(generate, "moved_camera", lambda *_: (shift, turn))
    always_touching = SimpleNamespace(random=lambda: 0.9)
    with SceneRenderer(world.model) as renderer:
        view = find_view(rng, world, state, renderer, settings.image_px, settings.grid)
        stage = generate._Stage(always_touching, world, state, renderer, settings)
        mechanism = world.mechanisms[0]
        joint = state.data.joint(mechanism.joint)
        axis, anchor = joint.xaxis.copy(), joint.xanchor.copy()
        slides = world.model.joint(mechanism.joint).type[0] == mujoco.mjtJoint.mjJNT_SLIDE
        delta = 0.6 * mechanism.high
        sample = stage._happen(view, JointMotion((mechanism,), (delta,), 1.3))
    assert sample.about["camera_static"] is not bool(moving_camera)
    on_part = np.isin(view.body, state.moved_body_ids(mechanism))
    gripper_id = world.model.body(world.gripper).id
    gripper = view.body == gripper_id
    assert gripper.any()

    def moved(points, fraction):
        way = delta * fraction**1.3
        if slides:
            return points + way * axis
        return anchor + Rotation.from_rotvec(way * axis).apply(points - anchor)

    gap = np.linalg.norm(view.points[on_part] - view.poses.position[gripper_id], axis=-1)
    touched = view.points[on_part][gap.argmin()]
    assert bool(gap.min() < 0.05) is gripper_touches
    for fraction, flow in zip((0.3, 1.0), sample.flow, strict=True):
        points = view.points.copy()
        points[on_part] = moved(points[on_part], fraction)
        if gripper_touches:
            points[gripper] += moved(touched, fraction) - touched
        camera_way = moving_camera * fraction
        expected = seen_from(view, points, camera_way * shift, camera_way * turn) - view.unit
        np.testing.assert_allclose(flow, np.clip(expected, -4, 4), atol=1e-5)


def sled(b):
    body = b.body(None, [0, 0, 0.5], stem="sled")
    b.slide(body, [1, 0, 0], -3.0, 3.0)
    b.box(body, [0.1, 0.1, 0.1], [0, 0, 0], b.material("plain"))
    return Layout("floor", (0, 0, 0.5), 0.3, 0.3, 0.3, np.pi)


@pytest.mark.parametrize(("way_m", "is_sample"), [(0.3, True), (2.1, False)])
def test_what_ends_behind_the_camera_gives_no_sample(way_m, is_sample, monkeypatch):
    rng = np.random.default_rng(0)
    world = build_world(sled, rng)
    world.gripper = None
    state = State(world)
    state.show(state.start)
    camera = look_at(np.array([1.0, 0, 0.5]), np.array([0, 0, 0.5]), 0.0, 0.5)
    monkeypatch.setattr(views, "random_camera", lambda *_: camera)
    settings = generate.SceneSettings(48, 32, (0.6, 1.0), moving_camera=0.0)
    with SceneRenderer(world.model) as renderer:
        view = find_view(rng, world, state, renderer, settings.image_px, settings.grid)
        stage = generate._Stage(rng, world, state, renderer, settings)
        motion = JointMotion((world.mechanisms[0],), (way_m,), 1.0)
        assert (stage._happen(view, motion) is not None) is is_sample
