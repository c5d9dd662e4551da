"""What is around the thing: room, table, light, clutter."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes.builder import SceneBuilder, turn
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.things import thing

_FAR = 20.0


@dataclass(frozen=True)
class Room:
    """Where a camera can be: (lowest, highest) x and y between walls, height of the floor (m)."""

    x: tuple[float, float]
    y: tuple[float, float]
    floor_z: float

    def contains(self, position: NDArray[np.float64]) -> bool:
        """Whether a camera has room at `position` [3]."""
        x, y, z = position
        return self.x[0] < x < self.x[1] and self.y[0] < y < self.y[1] and z > self.floor_z + 0.08


def _plane(b: SceneBuilder, pos: list[float], quat: np.ndarray, look: str) -> None:
    b.spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[6, 6, 0.5],
        pos=pos,
        quat=quat,
        material=look,
        contype=1,
        conaffinity=2,
    )


def add_room(b: SceneBuilder, layout: Layout) -> Room:
    """Sky, floor, and mostly a wall behind the thing, seldom one beside it; a table if needed."""
    sky = b.spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        width=64,
        height=384,
    )
    sky.rgb1, sky.rgb2 = b.colour("light"), b.colour(b.pick(["light", "grey", "muted"]))
    floor_pattern = b.pick(
        ["planks", "tiles", "tiles", "speckle", "cloudy", "wood", "weave", "plain"]
    )
    floor = b.material(
        floor_pattern,
        b.pick(["wood", "grey", "light", "muted"]),
        flat=True,
        repeat=b.uniform(0.4, 1.6),
    )
    floor_z = {"floor": 0.0, "table": -b.uniform(0.5, 0.9), "wall": -b.uniform(0.8, 1.4)}[
        layout.support
    ]
    _plane(b, [0, 0, floor_z], np.array([1.0, 0, 0, 0]), floor)
    room_x, room_y = (-_FAR, _FAR), (-_FAR, _FAR)
    if layout.support == "table":
        _table(b, layout, floor_z)
    window = layout.support == "wall" and layout.opening
    if b.chance(0.75) or (layout.support == "wall" and not window):
        gap = b.uniform(0.0, 0.06) if b.chance(0.5) else b.uniform(0.06, 1.2)
        if layout.support == "wall":
            gap = 0.0
        if layout.azimuth > 2:
            gap = b.uniform(0.3, 1.5) + layout.half_depth
        x = -layout.back - gap - (1.5 if window else 0.0)
        pattern = b.pick(["plain", "plain", "cloudy", "tiles", "stripes", "planks"])
        wall = b.material(
            pattern,
            b.pick(["light", "light", "muted", "grey"]),
            flat=True,
            repeat=b.uniform(0.4, 1.5),
        )
        _plane(b, [x, 0, 0], turn([0, 1, 0], np.pi / 2), wall)
        room_x = (x + 0.1, _FAR)
        if b.chance(0.4):
            _wall_decor(b, layout, x)
        if b.chance(0.3):
            sign = 1 if b.chance(0.5) else -1
            y = sign * (layout.half_width + b.uniform(0.1, 1.5))
            _plane(b, [0, y, 0], turn([1, 0, 0], sign * np.pi / 2), wall)
            room_y = (-_FAR, y - 0.1) if sign > 0 else (y + 0.1, _FAR)
    return Room(room_x, room_y, floor_z)


def _wall_decor(b: SceneBuilder, layout: Layout, x: float) -> None:
    for _ in range(int(b.rng.integers(1, 4))):
        half_y, half_z = b.uniform(0.06, 0.4), b.uniform(0.06, 0.35)
        at = [
            x + 0.008,
            b.uniform(-1.2, 1.2),
            layout.focus[2] + layout.radius + half_z + b.uniform(0.0, 0.5),
        ]
        body = b.body(None, at)
        b.box(body, [0.007, half_y, half_z], [0, 0, 0], b.material(b.pick(["plain", "wood"])))
        b.box(
            body,
            [0.0085, half_y * 0.9, half_z * 0.9],
            [0, 0, 0],
            b.material(b.pick(["poster", "label", "gradient", "plain"])),
        )


def _table(b: SceneBuilder, layout: Layout, floor_z: float) -> None:
    root = b.body(None, quat=turn([0, 0, 1], b.rng.normal(0, 0.08)))
    thick = b.uniform(0.01, 0.03)
    half_x = layout.half_depth + layout.back + b.uniform(0.05, 0.5)
    half_y = layout.half_width + b.uniform(0.1, 0.8)
    pattern = b.pick(
        [
            "wood",
            "wood",
            "planks",
            "plain",
            "plain",
            "speckle",
            "cloudy",
            "weave",
            "stripes",
            "tiles",
        ]
    )
    colour = b.pick(["wood", "wood", "light", "grey", "muted", "dark", "any"])
    top = b.material(pattern, colour, flat=True, repeat=b.uniform(0.6, 2.0))
    at_x = -layout.back / 2 + b.uniform(-0.03, 0.03)
    b.box(root, [half_x, half_y, thick], [at_x, 0, -thick], top)
    leg = b.material(b.pick(["wood", "plain", "brushed"]))
    if b.chance(0.3):
        body_half = -floor_z / 2 - thick
        b.box(
            root, [half_x - 0.03, half_y - 0.03, body_half], [at_x, 0, -2 * thick - body_half], leg
        )
        return
    w = b.uniform(0.015, 0.04)
    for sx in (-1, 1):
        for sy in (-1, 1):
            foot = [at_x + sx * (half_x - 2 * w), sy * (half_y - 2 * w), floor_z]
            b.rod(root, foot, [foot[0], foot[1], -thick], w, leg, rounded=False)


def add_clutter(b: SceneBuilder, layout: Layout, floor_z: float) -> None:
    """Still things on the support beside the main one, and big ones further away."""
    near = b.pick(["none", "few", "many"])
    for _ in range({"none": 0, "few": 2, "many": 6}[near]):
        if layout.support == "wall":
            break
        size = b.uniform(0.06, 0.16) if layout.support == "table" else b.uniform(0.12, 0.45)
        side = 1 if b.chance(0.5) else -1
        beyond = layout.half_width + size * 0.6 + b.uniform(0, 0.35)
        at = [b.uniform(-layout.back, 0.3 * layout.half_depth), side * beyond, 0]
        if layout.azimuth > 2:
            a = b.uniform(0, 2 * np.pi)
            at = [beyond * np.cos(a), beyond * np.sin(a), 0]
        if layout.support == "floor" and layout.opening:
            continue  # it would stand in the wall beside a door
        thing(b, b.body(None, at, turn([0, 0, 1], b.uniform(0, 6.28))), size)
    for _ in range(int(b.rng.integers(0, 5))):
        a = b.uniform(0, 2 * np.pi) if layout.azimuth > 2 else np.pi + b.rng.normal(0, 0.7)
        far = max(layout.half_depth, layout.half_width) + layout.back + b.uniform(0.7, 2.0)
        body = b.body(None, [far * np.cos(a), far * np.sin(a), floor_z], turn([0, 0, 1], a))
        half = b.rng.uniform([0.1, 0.15, 0.2], [0.35, 0.6, 1.0])
        if b.chance(0.7):
            b.box(body, half, [0, 0, half[2]], b.material())
            for k in range(int(b.rng.integers(0, 4))):
                z = 2 * half[2] * (k + 0.5) / 4
                b.box(body, [0.01, half[1] * 0.8, half[2] * 0.18], [-half[0], 0, z], b.material())
        else:
            b.rod(body, [0, 0, 0], [0, 0, 2 * half[2]], half[0], b.material(), rounded=False)


def add_lights(b: SceneBuilder, layout: Layout) -> None:
    """Light from the camera and from one to three lamps above, the first casting shadows."""
    head = b.spec.visual.headlight
    ambient = b.uniform(0.2, 0.45)
    tint = 1 + b.rng.normal(0, 0.03, 3)
    head.ambient = ambient * tint
    head.diffuse = np.full(3, b.uniform(0.0, 0.3))
    head.specular = np.full(3, 0.05)
    count = int(b.rng.integers(1, 4))
    for k in range(count):
        a, rise = b.uniform(-1.9, 1.9), b.uniform(0.5, 1.4)
        away = np.array([np.cos(rise) * np.cos(a), np.cos(rise) * np.sin(a), np.sin(rise)])
        warm = 1 + b.uniform(-0.1, 0.1) * np.array([1, 0, -1])
        power = b.uniform(0.4, 0.8) / (1 + 0.6 * k)
        directional = b.chance(0.6)
        lamp = mujoco.mjtLightType
        kind = lamp.mjLIGHT_DIRECTIONAL if directional else lamp.mjLIGHT_SPOT
        b.spec.worldbody.add_light(
            type=kind,
            pos=np.asarray(layout.focus) + away * b.uniform(1.8, 3.0),
            dir=-away,
            diffuse=power * warm,
            ambient=[0, 0, 0],
            specular=[0.25, 0.25, 0.25],
            cutoff=70.0,
            exponent=b.uniform(1, 6),
            attenuation=[1, 0, 0],
            castshadow=k == 0 and b.chance(0.85),
        )
