"""One compiled scene: a thing, what is around it, a gripper or hand, physics and view settings."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from fpt_ros.data.scenes import parts
from fpt_ros.data.scenes.builder import Mechanism, SceneBuilder
from fpt_ros.data.scenes.families import Family
from fpt_ros.data.scenes.layout import Layout
from fpt_ros.data.scenes.surroundings import Room, add_clutter, add_lights, add_room

TIMESTEP_S = 0.008
PARKED_M = -50.0
"""Height at which a gripper that is not in use is kept, out of sight."""


@dataclass
class World:
    """A compiled scene. loose, gripper: names of bodies."""

    model: mujoco.MjModel
    layout: Layout
    mechanisms: list[Mechanism]
    loose: list[str]
    gripper: str | None
    room: Room


def build_world(family: Family, rng: np.random.Generator) -> World:
    """Build one thing in its surroundings and compile it."""
    b = SceneBuilder(rng)
    _settings(b.spec)
    layout = family(b)
    room = add_room(b, layout)
    add_clutter(b, layout, room.floor_z)
    add_lights(b, layout)
    gripper = None
    if b.chance(0.45):
        body = b.body(None, [0, 0, PARKED_M], stem="gripper")
        body.mocap = True
        gripper = body.name
        if b.chance(0.25):
            parts.hand(b, body)
        else:
            scale = float(np.clip(layout.radius / 0.4, 0.35, 1.0)) * b.uniform(0.7, 1.1)
            parts.gripper(b, body, scale, b.uniform(0.0, 0.07) * scale)
    b.spec.worldbody.add_camera(name="eye")
    # a shadow map just as wide as what is looked at keeps its edges fine
    b.spec.visual.map.shadowclip = 1.6 * layout.radius + 0.5
    for body in b.spec.bodies:
        if body.name not in b.loose and body.name != "world":
            body.gravcomp = 1.0  # doors and arms stay where they are put
    model = b.spec.compile()
    return World(model, layout, b.mechanisms, b.loose, gripper, room)


def _settings(spec: mujoco.MjSpec) -> None:
    spec.compiler.degree = False
    spec.compiler.boundmass, spec.compiler.boundinertia = 1e-3, 1e-6  # bodies without shapes
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations = 30
    spec.visual.quality.shadowsize = 768
    spec.visual.quality.offsamples = 0
    spec.visual.global_.offwidth = spec.visual.global_.offheight = 512
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 30.0
    spec.stat.extent = 1.0
    spec.stat.center = [0, 0, 0]
