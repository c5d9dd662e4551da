"""From a seed to samples: build a world, look at it, let things happen, measure the motion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.parts import MOVING
from fpt_ros.data.scenes.camera import displaced, moved_camera
from fpt_ros.data.scenes.families import FAMILIES, UNSEEN_FAMILIES, WEIGHTS
from fpt_ros.data.scenes.flow import Poses, carry, displacement, visible_at
from fpt_ros.data.scenes.outcomes import JointMotion, Push, State
from fpt_ros.data.scenes.render import MAX_PX, SceneRenderer
from fpt_ros.data.scenes.views import View, find_view
from fpt_ros.data.scenes.world import World, build_world

SPLITS = ("train", "val", "test")
Rng = np.random.Generator
Array = NDArray[np.float64]

_FEWEST_MOVING, _MOST_MOVING = 0.004, 0.6


@dataclass(frozen=True)
class SceneSettings:
    """How scenes become samples.

    image_px: side of the square picture. grid: points per side at which motion is known.
    horizons_s: times (s) of the later pictures, the last one being the whole motion of 1 s.
    views, outcomes: pictures per scene, and different futures per picture.
    moving_camera: share of outcomes in which the camera moves as well.
    """

    image_px: int = 256
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


def family_for(split: str, rng: Rng, families: tuple[str, ...] = ()) -> str:
    """Draw a family: the unseen ones appear only in the test split, there half of the time.

    Of `families` instead, if any are named, all alike.
    """
    if families:
        return str(rng.choice(sorted(set(families))))
    if split == "test" and rng.random() < 0.5:
        return str(rng.choice(list(UNSEEN_FAMILIES)))
    weights = np.array([WEIGHTS.get(name, 1.0) for name in FAMILIES])
    return str(rng.choice(list(FAMILIES), p=weights / weights.sum()))


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
    if not state.restart(rng):
        return
    with SceneRenderer(world.model) as renderer:
        stage = _Stage(rng, world, state, renderer, settings)
        for view_index in range(settings.views):
            if view_index and rng.random() < 0.5:
                state.restart(rng)
            view = find_view(rng, world, state, renderer, settings.image_px, settings.grid)
            if view is None:
                continue
            for outcome_index, sample in enumerate(stage.outcomes(view)):
                sample.about.update(
                    family=family,
                    unseen=family in UNSEEN_FAMILIES,
                    scene_seed=seed,
                    view=view_index,
                    outcome=outcome_index,
                )
                yield sample


@dataclass(frozen=True)
class _Stage:
    """Everything needed to let things happen in one scene."""

    rng: Rng
    world: World
    state: State
    renderer: SceneRenderer
    settings: SceneSettings

    def outcomes(self, view: View) -> Iterator[Sample]:
        """Up to `settings.outcomes` different futures of one view."""
        world, state, rng = self.world, self.state, self.rng
        share = np.bincount(view.body.ravel(), minlength=world.model.nbody) / view.body.size
        mechanisms = [
            m for m in world.mechanisms if share[state.moved_body_ids(m)].sum() > _FEWEST_MOVING
        ]
        loose = [world.model.body(name).id for name in world.loose]
        loose = [body for body in loose if share[body] > _FEWEST_MOVING]
        gripper = state.data.mocap_pos.copy()
        found = 0
        for _ in range(2 * self.settings.outcomes):
            if found == self.settings.outcomes or not (mechanisms or loose):
                return
            motion: JointMotion | Push
            if mechanisms and (not loose or rng.random() < 0.5):
                motion = self._reduced(view, state.joint_motion(rng, mechanisms))
            else:
                motion = self._random_push(view, loose)
            sample = self._happen(view, motion)
            state.data.mocap_pos[:] = gripper
            state.show(state.start)
            if sample is not None:
                found += 1
                yield sample

    def _random_push(self, view: View, loose: list[int]) -> Push:
        """Touch a visible point of a loose thing and lead it somewhere, mostly level."""
        rng = self.rng
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

    def _reduced(self, view: View, motion: JointMotion) -> JointMotion:
        """The motion, made smaller where it would be larger in the picture than wanted."""
        wanted = float(np.exp(self.rng.uniform(np.log(0.035), np.log(0.38))))
        reach = _largest(self._flow(view, self.state.joints_at(motion, 1.0)))
        return motion.scaled(wanted / reach) if reach > wanted else motion

    def _flow(self, view: View, qpos: Array) -> Array:
        """Displacement [G, G, 2] of the view's points at `qpos`, seen by a camera at rest."""
        self.state.show(qpos)
        after = Poses.of(self.state.data)
        return displacement(view.unit, view.points, view.body, view.poses, after, view.camera)[0]

    def _happen(self, view: View, motion: JointMotion | Push) -> Sample | None:
        """Carry out a motion and measure it.

        None when too little or too much moves, or something to where no picture shows it: behind
        the camera.
        """
        settings, rng = self.settings, self.rng
        later = self.state.later(motion, list(settings.horizons_s))
        if not later:
            return None
        final = self._flow(view, later[-1])
        moving = np.linalg.norm(final, axis=-1) > MOVING
        largest = _largest(final)
        if not _FEWEST_MOVING < moving.mean() < _MOST_MOVING or not 0.02 < largest < 0.6:
            return None
        touched = self._touched(view, moving)
        shift, turning = np.zeros(3), np.zeros(3)
        static = bool(rng.random() >= settings.moving_camera)
        if not static:
            shift, turning = moved_camera(rng, view.camera, float(np.median(view.depth)))
        flows, visible = [], []
        for fraction, qpos in zip(settings.horizons_s, later, strict=True):
            self._show_with_gripper(view, qpos, touched)
            camera = displaced(view.camera, shift, turning, fraction)
            after = Poses.of(self.state.data)
            flow, depth = displacement(view.unit, view.points, view.body, view.poses, after, camera)
            if depth.min() <= 0:
                return None
            depth_map, _ = self.renderer.geometry(self.state.data, camera, 2 * settings.grid)
            flows.append(flow)
            visible.append(visible_at(view.unit + flow, depth, depth_map))
        about = {
            "kind": "push" if isinstance(motion, Push) else "joint",
            "joints": [] if isinstance(motion, Push) else [m.joint for m in motion.mechanisms],
            "camera_static": static,
            "horizon_s": list(settings.horizons_s),
            "moving_parts": sorted({int(p) for p in view.part[moving]}),
            "moving_share": round(float(moving.mean()), 5),
            "largest_flow": round(largest, 5),
            "gripper": bool((view.body == self._gripper_body()).any()),
        }
        return Sample(
            view.image,
            np.stack(flows).astype(np.float32),
            np.stack(visible),
            view.part.astype(np.int16),
            view.depth.astype(np.float32),
            about,
        )

    def _gripper_body(self) -> int:
        """Its body id, or -1."""
        name = self.world.gripper
        return int(self.world.model.body(name).id) if name else -1

    def _touched(self, view: View, moving: NDArray[np.bool_]) -> tuple[Array, int] | None:
        """The point [3] and body a touching gripper goes along with, if what it touches moves."""
        gripper = self._gripper_body()
        if gripper < 0:
            return None
        gaps = np.linalg.norm(view.points - view.poses.position[gripper], axis=-1)
        gaps = np.where(moving, gaps, np.inf)
        i, j = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
        if gaps[i, j] > 0.05 or self.rng.random() < 0.3:
            return None
        return view.points[i, j], int(view.body[i, j])

    def _show_with_gripper(
        self, view: View, qpos: Array, touched: tuple[Array, int] | None
    ) -> None:
        """Put everything where it is at `qpos`; the gripper keeps to the point it touches."""
        self.state.show(qpos)
        if touched is None:
            return
        point, body = touched
        moved = carry(point, np.array(body), view.poses, Poses.of(self.state.data))
        start = view.poses.position[self._gripper_body()]
        self.state.data.mocap_pos[0] = start + moved - point
        self.state.show(qpos)


def _largest(flow: Array) -> float:
    """Length of the largest displacements, without the few most extreme ones."""
    length = np.linalg.norm(flow, axis=-1)
    moving = length[length > 1e-3]
    return float(np.quantile(moving, 0.95)) if moving.size else 0.0


def describe(settings: SceneSettings) -> dict[str, Any]:
    """JSON-ready form of the settings."""
    return {**asdict(settings), "horizons_s": list(settings.horizons_s)}
