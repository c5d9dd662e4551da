"""A thin layer over `mujoco.MjSpec`: bodies, shapes, joints and materials with random looks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpt_ros.data.scenes import textures

Rng = np.random.Generator
Body: TypeAlias = mujoco.MjsBody
TEXTURE_PX = 96

# Contact bits: furniture only meets loose objects, loose objects meet everything solid.
_FURNITURE_BIT, _LOOSE_BIT = 1, 2

WOODS = np.array(
    [
        [0.80, 0.62, 0.42], [0.62, 0.42, 0.25], [0.45, 0.29, 0.17], [0.88, 0.75, 0.56],
        [0.72, 0.50, 0.30], [0.35, 0.24, 0.17], [0.93, 0.86, 0.74], [0.68, 0.60, 0.50],
    ]
)  # fmt: skip
METALS = np.array(
    [
        [0.75, 0.75, 0.76],
        [0.55, 0.56, 0.58],
        [0.86, 0.85, 0.83],
        [0.66, 0.65, 0.62],
        [0.78, 0.68, 0.46],
        [0.2] * 3,
    ]
)
CARTON = np.array([[0.72, 0.56, 0.38], [0.80, 0.66, 0.48], [0.62, 0.46, 0.30]])


@dataclass(frozen=True)
class Mechanism:
    """One joint that can be moved on purpose.

    joint: its name. low, high: range in rad or m. rest: the usual ("closed") value.
    companions: other joints that move with it, as (name, ratio).
    """

    joint: str
    low: float
    high: float
    rest: float
    companions: tuple[tuple[str, float], ...] = ()


@dataclass
class SceneBuilder:
    """Collects one scene. All randomness comes from `rng`, so a seed gives the same scene.

    compact: families are asked for their variant that fits on a table.
    base: body below which families build (the world when None).
    """

    rng: Rng
    spec: mujoco.MjSpec = field(default_factory=mujoco.MjSpec)
    mechanisms: list[Mechanism] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    compact: bool = False
    base: Body | None = None
    _ids: itertools.count = field(default_factory=itertools.count)

    def name(self, stem: str) -> str:
        """A fresh unique name."""
        return f"{stem}{next(self._ids)}"

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[str]) -> str:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    # --- looks ---------------------------------------------------------------------------------

    def colour(self, kind: str = "any") -> NDArray[np.float64]:
        """A plausible colour: 'wood', 'metal', 'carton', 'light', 'dark', 'vivid', or 'any'."""
        rng = self.rng
        if kind == "any":
            kind = str(rng.choice(["light", "grey", "vivid", "muted", "dark", "wood"],
                                  p=[0.3, 0.2, 0.12, 0.12, 0.08, 0.18]))  # fmt: skip
        if kind in ("wood", "metal", "carton"):
            table = {"wood": WOODS, "metal": METALS, "carton": CARTON}[kind]
            return np.clip(table[rng.integers(len(table))] * rng.uniform(0.85, 1.12), 0.03, 1)
        if kind == "grey":
            return np.clip(np.full(3, rng.uniform(0.3, 0.75)) + rng.normal(0, 0.015, 3), 0, 1)
        low, high, saturation = {
            "light": (0.78, 1.0, 0.1),
            "dark": (0.06, 0.22, 0.25),
            "muted": (0.4, 0.85, 0.35),
            "vivid": (0.5, 0.95, 0.85),
        }[kind]
        # red to yellow and blue are common in rooms, violet is not
        warm, cold = rng.uniform(-0.03, 0.17), rng.uniform(0.5, 0.66)
        hue = float(rng.choice([warm, cold, rng.random()], p=[0.5, 0.3, 0.2]))
        s = saturation * rng.uniform(0.3, 1.0)
        v = rng.uniform(low, high)
        wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        return v * (1 - s + s * wheel)

    def material(
        self,
        pattern: str = "any",
        colour: str | ArrayLike = "any",
        *,
        flat: bool = False,
        repeat: float = 1.0,
        alpha: float = 1.0,
        emission: float = 0.0,
    ) -> str:
        """Add a material and return its name.

        flat: texture mapped on x, y of the shape (planes, table tops) with `repeat` repetitions
        per metre; otherwise once around the shape.
        """
        rng = self.rng
        if pattern == "any":
            pattern = str(
                rng.choice(
                    ["plain", "cloudy", "wood", "brushed", "stripes", "speckle", "weave", "planks"],
                    p=[0.4, 0.1, 0.2, 0.08, 0.07, 0.05, 0.05, 0.05],
                )
            )
        if isinstance(colour, str):
            if colour == "any" and pattern in ("wood", "planks") and rng.random() < 0.85:
                colour = "wood"
            elif colour == "any" and pattern == "brushed":
                colour = "metal"
            elif colour == "any" and pattern == "cardboard":
                colour = "carton"
            base = self.colour(colour)
        else:
            base = np.asarray(colour, float)
        name = self.name("material")
        glossy = pattern in ("plain", "brushed", "label", "gradient") and rng.random() < 0.7
        material = self.spec.add_material(
            name=name,
            specular=rng.uniform(0.2, 0.7) if glossy else rng.uniform(0.0, 0.15),
            shininess=rng.uniform(0.3, 0.9) if glossy else 0.1,
            emission=emission,
        )
        material.rgba = [1, 1, 1, alpha]
        if pattern == "plain" and not flat and rng.random() < 0.7:
            material.rgba = [*base, alpha]
            return name
        picture = textures.PATTERNS[pattern](rng, base, TEXTURE_PX * (3 if flat else 1))
        texture = self.spec.add_texture(
            name=self.name("texture"),
            type=mujoco.mjtTexture.mjTEXTURE_2D if flat else mujoco.mjtTexture.mjTEXTURE_CUBE,
            width=picture.shape[1],
            height=picture.shape[0],
            nchannel=3,
        )
        texture.data = np.ascontiguousarray(picture).tobytes()
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture.name
        if flat:
            material.texuniform = True
            material.texrepeat = [repeat, repeat]
        return name

    # --- structure -----------------------------------------------------------------------------

    def body(
        self,
        parent: Body | None = None,
        pos: ArrayLike = (0, 0, 0),
        quat: ArrayLike = (1, 0, 0, 0),
        stem: str = "body",
    ) -> Body:
        """A new body below `parent` (default: the world)."""
        parent = parent or self.base or self.spec.worldbody
        return parent.add_body(
            name=self.name(stem), pos=np.asarray(pos, float), quat=np.asarray(quat, float)
        )

    def loose_body(self, pos: ArrayLike, quat: ArrayLike = (1, 0, 0, 0)) -> Body:
        """A body that can be pushed around freely."""
        body = self.body(self.spec.worldbody, pos, quat, "loose")
        body.add_freejoint(name=body.name + "_free")
        self.loose.append(body.name)
        return body

    def _joint(
        self,
        body: Body,
        kind: mujoco.mjtJoint,
        axis: ArrayLike,
        limits: tuple[float, float],
        pos: ArrayLike,
        rest: float,
        companions: tuple[tuple[str, float], ...],
        listed: bool,
    ) -> str:
        name = self.name("joint")
        body.add_joint(
            name=name,
            type=kind,
            axis=np.asarray(axis, float),
            pos=np.asarray(pos, float),
            range=list(limits),
            limited=True,
            damping=1.0 if kind == mujoco.mjtJoint.mjJNT_HINGE else 20.0,
            frictionloss=0.5,
            armature=0.01,
        )
        if listed:
            self.mechanisms.append(Mechanism(name, *limits, rest, companions))
        return name

    def hinge(
        self,
        body: Body,
        axis: ArrayLike,
        low: float,
        high: float,
        *,
        pos: ArrayLike = (0, 0, 0),
        rest: float = 0.0,
        companions: tuple[tuple[str, float], ...] = (),
        listed: bool = True,
    ) -> str:
        """Give `body` a hinge (rad) and list it as a mechanism."""
        kind = mujoco.mjtJoint.mjJNT_HINGE
        return self._joint(body, kind, axis, (low, high), pos, rest, companions, listed)

    def slide(
        self,
        body: Body,
        axis: ArrayLike,
        low: float,
        high: float,
        *,
        rest: float = 0.0,
        companions: tuple[tuple[str, float], ...] = (),
        listed: bool = True,
    ) -> str:
        """Give `body` a sliding joint (m) and list it as a mechanism."""
        kind = mujoco.mjtJoint.mjJNT_SLIDE
        return self._joint(body, kind, axis, (low, high), (0, 0, 0), rest, companions, listed)

    # --- shapes --------------------------------------------------------------------------------

    def _geom(
        self, body: Body, kind: mujoco.mjtGeom, material: str, solid: bool, **options: object
    ) -> None:
        loose = body.name in self.loose
        bit, meets = (_LOOSE_BIT, 3) if loose else (_FURNITURE_BIT, _LOOSE_BIT)
        body.add_geom(
            type=kind,
            material=material,
            contype=bit if solid else 0,
            conaffinity=meets if solid else 0,
            density=self.uniform(150, 700) if loose else 300.0,
            friction=[self.uniform(0.4, 0.9), 0.005, 0.0005],
            **options,
        )

    def box(
        self,
        body: Body,
        half: ArrayLike,
        pos: ArrayLike,
        material: str,
        *,
        quat: ArrayLike = (1, 0, 0, 0),
        solid: bool = True,
    ) -> None:
        """A box with the given half sizes (m)."""
        self._geom(
            body,
            mujoco.mjtGeom.mjGEOM_BOX,
            material,
            solid,
            size=np.maximum(np.asarray(half, float), 5e-4),
            pos=np.asarray(pos, float),
            quat=np.asarray(quat, float),
        )

    def rod(
        self,
        body: Body,
        start: ArrayLike,
        end: ArrayLike,
        radius: float,
        material: str,
        *,
        rounded: bool = True,
        solid: bool = True,
    ) -> None:
        """A capsule (or cylinder when not rounded) from start to end."""
        kind = mujoco.mjtGeom.mjGEOM_CAPSULE if rounded else mujoco.mjtGeom.mjGEOM_CYLINDER
        ends = np.concatenate([np.asarray(start, float), np.asarray(end, float)])
        self._geom(body, kind, material, solid, fromto=ends, size=[radius, 0, 0])

    def ball(
        self,
        body: Body,
        radii: ArrayLike,
        pos: ArrayLike,
        material: str,
        *,
        solid: bool = True,
    ) -> None:
        """An ellipsoid with the given radii (m)."""
        self._geom(
            body,
            mujoco.mjtGeom.mjGEOM_ELLIPSOID,
            material,
            solid,
            size=np.broadcast_to(np.asarray(radii, float), 3).copy(),
            pos=np.asarray(pos, float),
        )

    def mesh(
        self,
        body: Body,
        vertices: NDArray[np.floating],
        faces: NDArray[np.integer],
        material: str,
        *,
        pos: ArrayLike = (0, 0, 0),
        quat: ArrayLike = (1, 0, 0, 0),
        solid: bool = True,
        smooth: bool = True,
    ) -> None:
        """A triangle mesh [V, 3], [F, 3] in the frame of the body (contacts use its hull)."""
        asset = self.spec.add_mesh(name=self.name("mesh"))
        asset.uservert = vertices.astype(np.float32).ravel().tolist()
        asset.userface = faces.astype(int).ravel().tolist()
        asset.smoothnormal = smooth
        # The shell has no well-defined volume; the hull's inertia is good enough for pushing.
        asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
        self._geom(
            body,
            mujoco.mjtGeom.mjGEOM_MESH,
            material,
            solid,
            meshname=asset.name,
            pos=np.asarray(pos, float),
            quat=np.asarray(quat, float),
        )


def turn(axis: ArrayLike, angle: float) -> NDArray[np.float64]:
    """Quaternion (w, x, y, z) of a turn by `angle` rad about `axis`."""
    quat = np.zeros(4)
    direction = np.asarray(axis, float)
    mujoco.mju_axisAngle2Quat(quat, direction / np.linalg.norm(direction), angle)
    return quat
