"""From a seed to samples: build a world, look at it, let things happen, measure the motion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.scenes.camera import displaced, moved_camera
from fpt_ros.data.scenes.families import FAMILIES, UNSEEN_FAMILIES
from fpt_ros.data.scenes.flow import Poses, carry, displacement, visible_at
from fpt_ros.data.scenes.outcomes import JointMotion, Push, State
from fpt_ros.data.scenes.render import MAX_PX, SceneRenderer
from fpt_ros.data.scenes.views import View, find_view
from fpt_ros.data.scenes.world import World, build_world

SPLITS = ("train", "val", "test")
Rng = np.random.Generator
Array = NDArray[np.float64]

MOVING = 0.01
"""A point moves when it is displaced by more than this share of the image side."""
_FEWEST_MOVING, _MOST_MOVING = 0.004, 0.6


@dataclass(frozen=True)
class SceneSettings:
    """How scenes become samples.

    image_px: side of the square picture. grid: points per side at which motion is known.
    horizons_s: times (s) of the later pictures, the last one being the whole motion of 1 s.
    views, outcomes: pictures per scene, and different futures per picture.
    moving_camera: share of outcomes in which the camera moves as well.
    """

    image_px: int = 192
    grid: int = 64
    horizons_s: tuple[float, ...] = (0.5, 1.0)
    views: int = 6
    outcomes: int = 4
    moving_camera: float = 0.17

    def __post_init__(self) -> None:
        if not 16 <= self.image_px <= MAX_PX:
            raise InvalidInputError(f"image_px is {self.image_px}; use 16 to {MAX_PX}")
        if not 8 <= self.grid <= MAX_PX // 3:
            raise InvalidInputError(f"grid is {self.grid}; use 8 to {MAX_PX // 3}")
        ascending = all(a < b for a, b in zip(self.horizons_s, self.horizons_s[1:], strict=False))
        if not (self.horizons_s and self.horizons_s[0] > 0 and ascending) or (
            self.horizons_s[-1] != 1.0
        ):
            raise InvalidInputError(
                f"horizons_s is {self.horizons_s}; give rising times in (0, 1], the last being 1"
            )
        if self.views < 1 or self.outcomes < 1:
            raise InvalidInputError("views and outcomes must be at least 1")


@dataclass(frozen=True)
class Sample:
    """One picture and one of its futures.

    image uint8 [S, S, 3]; flow float32 [H, G, G, 2] in image sides; visible bool [H, G, G];
    part int16 [G, G], 0 = what never moves; depth float32 [G, G] m; about: JSON-ready facts.
    """

    image: NDArray[np.uint8]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]
    part: NDArray[np.int16]
    depth: NDArray[np.float32]
    about: dict[str, Any]


def family_for(split: str, rng: Rng) -> str:
    """Draw a family: the unseen ones appear only in the test split, there half of the time."""
    if split == "test" and rng.random() < 0.5:
        return str(rng.choice(list(UNSEEN_FAMILIES)))
    return str(rng.choice(list(FAMILIES)))


def samples(family: str, seed: int, settings: SceneSettings) -> Iterator[Sample]:
    """All samples of one scene. The same arguments always give the same samples.

    Raises InvalidInputError for an unknown family.
    """
    builder = FAMILIES.get(family) or UNSEEN_FAMILIES.get(family)
    if builder is None:
        known = ", ".join([*FAMILIES, *UNSEEN_FAMILIES])
        raise InvalidInputError(f"no family {family!r}; there are {known}")
    rng = np.random.default_rng(seed)
    world = build_world(builder, rng)
    state = State(world)
    with SceneRenderer(world.model) as renderer:
        if not state.restart(rng):
            return
        for view_index in range(settings.views):
            if view_index and rng.random() < 0.5:
                state.restart(rng)
            view = find_view(rng, world, state, renderer, settings.image_px, settings.grid)
            if view is None:
                continue
            for outcome_index, sample in enumerate(
                _outcomes(rng, world, state, renderer, view, settings)
            ):
                sample.about.update(
                    family=family,
                    unseen=family in UNSEEN_FAMILIES,
                    scene_seed=seed,
                    view=view_index,
                    outcome=outcome_index,
                )
                yield sample


def _outcomes(
    rng: Rng,
    world: World,
    state: State,
    renderer: SceneRenderer,
    view: View,
    settings: SceneSettings,
) -> Iterator[Sample]:
    """Up to `settings.outcomes` different futures of one view."""
    share = np.bincount(view.body.ravel(), minlength=world.model.nbody) / view.body.size
    mechanisms = [
        m for m in world.mechanisms if share[state.moved_body_ids(m)].sum() > _FEWEST_MOVING
    ]
    loose = [i for i in (world.model.body(n).id for n in world.loose) if share[i] > _FEWEST_MOVING]
    parked = state.data.mocap_pos.copy()
    found = 0
    for _ in range(2 * settings.outcomes):
        if found == settings.outcomes or not (mechanisms or loose):
            return
        motion: JointMotion | Push
        if mechanisms and (not loose or rng.random() < 0.5):
            motion = state.joint_motion(rng, mechanisms)
        else:
            motion = _random_push(rng, view, loose)
        sample = _happen(rng, world, state, renderer, view, motion, settings)
        state.data.mocap_pos[:] = parked
        state.show(state.start)
        if sample is not None:
            found += 1
            yield sample


def _random_push(rng: Rng, view: View, loose: list[int]) -> Push:
    """Touch a visible point of a loose thing and lead it somewhere, mostly level."""
    body = loose[int(rng.integers(len(loose)))]
    cells = np.argwhere(view.body == body)
    i, j = cells[rng.integers(len(cells))]
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle), 0.0])
    if rng.random() < 0.12:
        direction[2] = rng.uniform(0.3, 1.5)
    size = np.exp(rng.uniform(np.log(0.04), np.log(0.3)))
    length = size * 2 * view.camera.tangent * view.depth[i, j]
    return Push(body, view.points[i, j], direction / np.linalg.norm(direction) * length)


def _happen(
    rng: Rng,
    world: World,
    state: State,
    renderer: SceneRenderer,
    view: View,
    motion: JointMotion | Push,
    settings: SceneSettings,
) -> Sample | None:
    """Carry out a motion and measure it; None when too little or too much moves."""
    model = world.model
    fractions = list(settings.horizons_s)

    def flow_at(qpos: Array) -> Array:
        state.show(qpos)
        after = Poses.of(state.data)
        return displacement(view.unit, view.points, view.body, view.poses, after, view.camera)[0]

    wanted = float(np.exp(rng.uniform(np.log(0.035), np.log(0.38))))
    if isinstance(motion, JointMotion):
        # Bring the motion to the wanted size in the picture (never beyond the joint's range).
        reach = _largest(flow_at(state.joints_at(motion, 1.0)))
        if reach > wanted:
            motion = motion.scaled(wanted / reach)
    later = state.later(motion, fractions)
    if not later:
        return None
    final = flow_at(later[-1])
    length = np.linalg.norm(final, axis=-1)
    moving = length > MOVING
    if not _FEWEST_MOVING < moving.mean() < _MOST_MOVING or not 0.02 < _largest(final) < 0.6:
        return None
    follows = _gripper_point(rng, world, view, moving)
    shift, turning = np.zeros(3), np.zeros(3)
    static = bool(rng.random() >= settings.moving_camera)
    if not static:
        shift, turning = moved_camera(rng, view.camera, float(np.median(view.depth)))
    flows, visible = [], []
    resting = state.data.mocap_pos.copy()
    for fraction, qpos in zip(fractions, later, strict=True):
        state.show(qpos)
        if follows is not None:
            point, body = follows
            moved = carry(point, body, view.poses, Poses.of(state.data))
            state.data.mocap_pos[0] = resting[0] + moved - point
            state.show(qpos)
        camera = displaced(view.camera, shift, turning, fraction)
        after = Poses.of(state.data)
        flow, depth = displacement(view.unit, view.points, view.body, view.poses, after, camera)
        depth_map, _ = renderer.geometry(state.data, camera, 2 * settings.grid)
        flows.append(flow)
        visible.append(visible_at(view.unit + flow, depth, depth_map))
    about = {
        "kind": "push" if isinstance(motion, Push) else "joint",
        "joints": [] if isinstance(motion, Push) else [m.joint for m in motion.mechanisms],
        "camera_static": static,
        "horizon_s": list(settings.horizons_s),
        "moving_parts": sorted({int(p) for p in view.part[moving]}),
        "moving_share": round(float(moving.mean()), 5),
        "largest_flow": round(_largest(final), 5),
        "gripper": bool(world.gripper and (view.body == model.body(world.gripper).id).any()),
    }
    return Sample(
        view.image,
        np.stack(flows).astype(np.float32),
        np.stack(visible),
        view.part.astype(np.int16),
        view.depth.astype(np.float32),
        about,
    )


def _largest(flow: Array) -> float:
    """Length of the largest displacements, without the few most extreme ones."""
    length = np.linalg.norm(flow, axis=-1)
    moving = length[length > 1e-3]
    return float(np.quantile(moving, 0.95)) if moving.size else 0.0


def _gripper_point(
    rng: Rng, world: World, view: View, moving: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.int64]] | None:
    """The body point a touching gripper goes along with, if it touches something that moves."""
    if world.gripper is None:
        return None
    body = world.model.body(world.gripper).id
    tip = view.poses.position[body]
    gaps = np.linalg.norm(view.points - tip, axis=-1) + np.where(moving, 0, np.inf)
    i, j = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
    if gaps[i, j] > 0.05 or rng.random() < 0.3:
        return None
    return view.points[i, j], view.body[i, j]


def describe(settings: SceneSettings) -> dict[str, Any]:
    """JSON-ready form of the settings."""
    return {**asdict(settings), "horizons_s": list(settings.horizons_s)}
