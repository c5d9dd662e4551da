"""Household-like things that stand on a surface: boxes, cans, cups, plates, pots, books, toys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes import parts, shapes
from fpt_ros.data.scenes.builder import Body, SceneBuilder, turn


def bottle_profile(b: SceneBuilder, radius: float, height: float) -> NDArray[np.float64]:
    """Outline of a bottle or jar, z from 0 to height."""
    neck = radius * b.uniform(0.25, 0.8)
    shoulder = height * b.uniform(0.5, 0.8)
    lip = min(height * 0.95, shoulder + radius * b.uniform(0.3, 1.2))
    foot = [[0.0, 0.0], [radius * 0.93, 0.0], [radius, 0.02 * height], [radius, shoulder]]
    top = [[neck, lip], [neck, height * 0.97], [neck * 0.9, height], [0.0, height]]
    return np.array(foot + top)


def open_profile(b: SceneBuilder, radius: float, height: float, foot: float) -> NDArray[np.float64]:
    """Outline of an open vessel with a wall, z from 0 to height; foot: radius of its base."""
    wall = max(0.0015, 0.06 * radius)
    t = np.linspace(0, 1, 6)
    outer = foot + (radius - foot) * t ** b.uniform(0.4, 0.9)
    floor = min(0.08 * height, 0.01) + 0.001
    outside = np.stack([outer, t * height], -1)
    inside = np.stack([outer - wall, np.maximum(t * height, floor)], -1)[::-1]
    ends = np.array([[0, 0], [0, floor]])
    return np.concatenate([ends[:1], outside, inside, ends[1:]])


def _box(b: SceneBuilder, body: Body, r: float) -> float:
    half = r * b.rng.uniform(0.4, 1.1, 3)
    b.box(body, half, [0, 0, half[2]], b.material(b.pick(["label", "any"])))
    return float(2 * half[2])


def _carton(b: SceneBuilder, body: Body, r: float) -> float:
    half = r * b.rng.uniform(0.5, 1.1, 3)
    b.box(body, half, [0, 0, half[2]], b.material("cardboard", "carton"))
    return float(2 * half[2])


def _block(b: SceneBuilder, body: Body, r: float) -> float:
    half = 0.65 * r
    b.box(body, [half] * 3, [0, 0, half], b.material(b.pick(["wood", "plain", "any"])))
    return 2 * half


def _rounded(b: SceneBuilder, body: Body, r: float) -> float:
    """Soap, phone, remote control, tin with rounded corners."""
    x, y = r * b.rng.uniform(0.45, 1.1, 2)
    height = r * float(np.exp(b.uniform(np.log(0.12), np.log(1.2))))
    outline = shapes.rounded_rectangle(x, y, b.uniform(0.2, 0.9) * min(x, y))
    look = b.material(b.pick(["plain", "label", "any"]))
    b.mesh(body, *shapes.prism(outline, height), look, smooth=False)
    if b.chance(0.4):
        mark = b.material(b.pick(["label", "poster", "plain"]))
        b.box(body, [x * 0.6, y * 0.6, 0.001], [0, 0, height], mark)
    return height


def _book(b: SceneBuilder, body: Body, r: float) -> float:
    x, y, z = r * b.uniform(0.7, 1.0), r * b.uniform(0.9, 1.3), r * b.uniform(0.1, 0.3)
    cover = b.material(b.pick(["label", "plain", "weave"]))
    rim = 0.12 * z
    b.box(body, [x, y, rim], [0, 0, rim], cover)
    b.box(body, [x, y, rim], [0, 0, 2 * z - rim], cover)
    b.box(body, [0.96 * x, 0.97 * y, z - rim], [0, 0, z], b.material("plain", "light"))
    return 2 * z


def _can(b: SceneBuilder, body: Body, r: float) -> float:
    height, radius = r * b.uniform(0.4, 3.0), r * b.uniform(0.5, 0.9)
    look = b.material(b.pick(["label", "any"]))
    b.rod(body, [0, 0, 0], [0, 0, height], radius, look, rounded=False)
    lid = b.material("brushed")
    b.rod(body, [0, 0, height], [0, 0, height * 1.02], radius * 0.95, lid, rounded=False)
    return height * 1.02


def _ball(b: SceneBuilder, body: Body, r: float) -> float:
    radius = r * b.uniform(0.4, 0.9)
    b.ball(body, radius, [0, 0, radius], b.material(b.pick(["stripes", "any"])))
    return 2 * radius


def _fruit(b: SceneBuilder, body: Body, r: float) -> float:
    radii = r * b.uniform(0.4, 0.7) * b.rng.uniform(0.85, 1.25, 3)
    colour = np.array([b.uniform(0.5, 0.95), b.uniform(0.15, 0.8), b.uniform(0.05, 0.2)])
    b.ball(body, radii, [0, 0, radii[2]], b.material("cloudy", colour))
    return float(2 * radii[2])


def _tray(b: SceneBuilder, body: Body, r: float) -> float:
    height = r * b.uniform(0.25, 0.7)
    parts.open_box(b, body, r * b.uniform(0.8, 1.2), r * b.uniform(0.8, 1.2), height, b.material())
    return height


def _bottle(b: SceneBuilder, body: Body, r: float) -> float:
    height, radius = r * b.uniform(2.2, 4.5), r * b.uniform(0.45, 0.75)
    look = b.material(b.pick(["label", "plain", "any"]))
    b.mesh(body, *shapes.lathe(bottle_profile(b, radius, height)), look)
    cap = b.material("plain")
    b.rod(body, [0, 0, height], [0, 0, height * 1.05], radius * 0.4, cap, rounded=False)
    return height * 1.05


def _cup(b: SceneBuilder, body: Body, r: float) -> float:
    radius, height = 0.75 * r, r * b.uniform(1.2, 2.4)
    look = b.material(b.pick(["plain", "stripes", "label", "any"]))
    b.mesh(body, *shapes.lathe(open_profile(b, radius, height, radius * b.uniform(0.6, 1))), look)
    if b.chance(0.6):
        ring = shapes.torus(0.28 * height, 0.09 * radius + 0.002, 18)
        upright = turn([1, 0, 0], np.pi / 2)
        b.mesh(body, *ring, look, pos=[radius, 0, 0.5 * height], quat=upright, solid=False)
    return height


def _bowl(b: SceneBuilder, body: Body, r: float) -> float:
    height = r * b.uniform(0.5, 1.0)
    look = b.material(b.pick(["plain", "stripes", "wood", "any"]))
    b.mesh(body, *shapes.lathe(open_profile(b, r, height, r * b.uniform(0.35, 0.7))), look)
    return height


def _plate(b: SceneBuilder, body: Body, r: float) -> float:
    height = r * b.uniform(0.12, 0.25)
    look = b.material(b.pick(["plain", "plain", "stripes", "cloudy"]), b.pick(["light", "any"]))
    profile = [
        [0.0, 0.0],
        [0.6 * r, 0.0],
        [1.1 * r, height],
        [1.05 * r, height],
        [0.6 * r, 0.3 * height],
        [0.0, 0.3 * height],
    ]
    b.mesh(body, *shapes.lathe(np.array(profile), 28), look)
    return height


def _pot(b: SceneBuilder, body: Body, r: float) -> float:
    """A cooking pot or pan with handles, sometimes closed by a lid."""
    height = r * b.uniform(0.4, 1.3)
    metal = b.material(b.pick(["brushed", "plain"]), b.pick(["metal", "dark", "vivid"]))
    b.mesh(body, *shapes.lathe(open_profile(b, r, height, 0.95 * r), 28), metal)
    grip = b.material("plain", b.pick(["dark", "metal", "wood"]))
    if b.chance(0.5):
        b.rod(body, [r, 0, 0.8 * height], [r * 2.3, 0, 0.9 * height], 0.08 * r + 0.002, grip)
    else:
        for sign in (-1, 1):
            start, end = (
                [-0.25 * r, sign * 1.12 * r, 0.75 * height],
                [0.25 * r, sign * 1.12 * r, 0.75 * height],
            )
            b.rod(body, start, end, 0.05 * r + 0.002, grip)
    if b.chance(0.4):
        profile = np.array(
            [[0, height], [1.02 * r, height], [0.8 * r, height * 1.12], [0, height * 1.18]]
        )
        b.mesh(body, *shapes.lathe(profile), metal)
        b.ball(body, 0.14 * r, [0, 0, height * 1.25], grip)
    return height


def _toy_car(b: SceneBuilder, body: Body, r: float) -> float:
    paint, tyre = b.material("plain", "vivid"), b.material("plain", "dark")
    wheel, width = 0.22 * r, 0.42 * r
    b.box(body, [r, width, 0.22 * r], [0, 0, 1.6 * wheel], paint)
    b.box(body, [0.5 * r, width * 0.9, 0.2 * r], [-0.1 * r, 0, 1.6 * wheel + 0.4 * r], paint)
    for x in (-0.6, 0.6):
        for sign in (-1, 1):
            inner, outer = sign * width * 0.8, sign * width * 1.1
            b.rod(body, [x * r, inner, wheel], [x * r, outer, wheel], wheel, tyre, rounded=False)
    return 1.6 * wheel + 0.6 * r


THINGS: dict[str, Callable[[SceneBuilder, Body, float], float]] = {
    "box": _box,
    "carton": _carton,
    "block": _block,
    "rounded": _rounded,
    "book": _book,
    "can": _can,
    "ball": _ball,
    "fruit": _fruit,
    "tray": _tray,
    "bottle": _bottle,
    "cup": _cup,
    "bowl": _bowl,
    "plate": _plate,
    "pot": _pot,
    "toy_car": _toy_car,
}


def thing(b: SceneBuilder, body: Body, size: float) -> float:
    """Add a random thing of about `size` m across standing at the origin of `body`.

    Returns its height (m).
    """
    return THINGS[b.pick(list(THINGS))](b, body, size / 2)
